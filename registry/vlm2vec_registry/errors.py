"""What can go wrong with a registry, by who has to act on it."""


class RegistryError(Exception):
    """Base of every error of this package."""


class ArtifactError(RegistryError):
    """An adapter version is not what it should be: its files, their digests, its base."""


class MissingError(RegistryError):
    """The registry knows no such model, version or alias."""


class OutageError(RegistryError):
    """The registry could not be asked, or its answer makes no sense."""
