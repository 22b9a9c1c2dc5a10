"""Logging to standard error: text for people, JSON for machines. Never a payload or a secret."""

import json
import logging
import time

EXTRAS = ("method", "code", "seconds", "request_id", "peer", "caller", "error")


class JsonFormatter(logging.Formatter):
    """One object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """``time`` (UTC), ``level``, ``logger``, ``message``, and of an access what is known."""
        values = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        values |= {key: getattr(record, key) for key in EXTRAS if hasattr(record, key)}
        if record.exc_info:
            values["traceback"] = self.formatException(record.exc_info)
        return json.dumps(values)


def configure(level: str, style: str) -> None:
    """Sets the root logger up."""
    handler = logging.StreamHandler()
    if style == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # Its own report of a broken connection, which the caller sees anyway.
    logging.getLogger("grpc._cython.cygrpc").setLevel(logging.CRITICAL)
