"""What can go wrong in training that a user can mend."""

from vlm2vec_service.errors import Vlm2vecError


class DataError(Vlm2vecError):
    """The training data or its settings are at fault; the message names file, line and field."""

    grpc_code = 3
    http_status = 400


class TrainingError(Vlm2vecError):
    """Training cannot start or go on with these settings."""

    grpc_code = 9
    http_status = 409
