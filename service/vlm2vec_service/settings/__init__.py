"""Settings as frozen dataclasses: every field is a documented flag and environment variable.

`setting` attaches the text that ``--help`` shows and what a value may be; `vlm2vec_service.options`
turns a dataclass into command-line options, under the first words of its docstring. Nothing here
imports more than the standard library.
"""

from vlm2vec_service.settings.callers import AuthSettings, HttpSettings, TlsSettings
from vlm2vec_service.settings.engine import EngineSettings
from vlm2vec_service.settings.field import count, setting
from vlm2vec_service.settings.inputs import Limits, VideoSettings
from vlm2vec_service.settings.registry import RegistrySettings
from vlm2vec_service.settings.server import LogSettings, ServerSettings

__all__ = [
    "AuthSettings", "EngineSettings", "HttpSettings", "Limits", "LogSettings", "RegistrySettings",
    "ServerSettings", "TlsSettings", "VideoSettings", "count", "setting",
]  # fmt: skip
