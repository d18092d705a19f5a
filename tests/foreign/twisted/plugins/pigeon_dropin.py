"""Makes all of it known. A stranger's dropin may import what it likes; ours stays light for twistd's sake."""

from imgateway_pigeon.business import Coop, Feathers, Nest, Pecking, Plucking
from imgateway_pigeon.lines import Lines
from imgateway_pigeon.transport import PigeonTransport

lines, pigeon = Lines(), PigeonTransport()
feathers, pecking, coop, plucking, nest = Feathers(), Pecking(), Coop(), Plucking(), Nest()
