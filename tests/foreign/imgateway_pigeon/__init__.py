"""A stranger's package, as small as one can be: everything that imgateway lets others bring.

Installed beside imgateway (its directory on the path is enough), the node finds all of it by name:
``--listen lines+pigeon:PORT``.
"""
