"""``POST /webhooks/mlflow``: MLflow says that its registry has changed, and it is read at once."""

from pathlib import Path

from fastapi import APIRouter, Request, Response

from vlm2vec_registry.webhook import SignatureError, Verifier
from vlm2vec_service.errors import StartError, UnauthenticatedError
from vlm2vec_service.frontend.http.peers import PASSED_ON, Peers
from vlm2vec_service.frontend.pipeline import Pipeline

PATH = "/webhooks/mlflow"


def read_secret(file: str) -> str:
    """Reads the secret of webhooks. Raises `StartError` if there is none in ``file``."""
    try:
        secret = Path(file).read_text().strip()
    except (OSError, ValueError) as error:
        raise StartError(str(error), "webhook_secret_file") from error
    if not secret:
        raise StartError(f"{file} is empty", "webhook_secret_file")
    return secret


def routes(pipeline: Pipeline, secret_file: str, peers: Peers | None) -> APIRouter:
    """Makes the router, for notices signed with the secret in ``secret_file``, which are passed on
    to ``peers``.

    The file is read for each notice, so the secret may change. Raises `StartError` if it has none.
    """
    router = APIRouter()
    verifiers: dict[str, Verifier] = {}

    def verifier() -> Verifier:
        secret = read_secret(secret_file)
        if secret not in verifiers:
            verifiers.clear()
            verifiers[secret] = Verifier(secret)
        return verifiers[secret]

    verifier()

    @router.post(PATH, status_code=204, include_in_schema=False)
    async def notice(request: Request) -> Response:
        body = await request.body()
        try:
            name = verifier().model(request.headers, body)
        except SignatureError as error:
            raise UnauthenticatedError(str(error)) from error
        for served in pipeline.served.values():
            if served.follower is not None and name in ("", served.model.name):
                served.follower.poke()
        if peers is not None and PASSED_ON not in request.headers:
            await peers.tell(PATH, request.headers, body)
        return Response(status_code=204)

    return router
