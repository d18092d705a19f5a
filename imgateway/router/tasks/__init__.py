"""Push tasks: one message to up to 100,000 users, or a push for later, kept in an SQL database and run at a
rate, with what became of each."""

from imgateway.router.tasks.routes import TaskPages
from imgateway.router.tasks.service import Tasks

__all__ = ("TaskPages", "Tasks")
