"""The package ``eas-prediction`` as its users have it: with the dependencies it asks for, in a process of its own.

It wants a protobuf that is older than ours, so it lies in a folder of its own. Run as a program, this file is that
process: it makes one call and tells as JSON what came of it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

REQUIREMENTS = Path(__file__).parent.parent / "requirements" / "eas-client.txt"


@dataclass(frozen=True)
class OfficialClient:
    """The package in its folder."""

    folder: Path

    @classmethod
    def installed(cls, folder: Path) -> OfficialClient:
        """Installed once, by pip, pinned by hashes."""
        options = "--no-deps --require-hashes --only-binary :all: --no-input --disable-pip-version-check"
        command = [sys.executable, "-m", "pip", "install", "-q", *options.split(), "-r", str(REQUIREMENTS)]
        if not (folder / "eas_prediction").exists():
            subprocess.run([*command, "--target", str(folder)], check=True)
        return cls(folder)

    def predict(self, url: str, service: str, token: str, body: str | dict) -> dict:
        """``{"answer": text}``, or ``{"code": ..., "message": ...}`` of its PredictException."""
        ask = json.dumps({"url": url, "service": service, "token": token, "body": body})
        command = [sys.executable, __file__]
        there = {**os.environ, "PYTHONPATH": str(self.folder)}
        done = subprocess.run(command, input=ask, capture_output=True, text=True, env=there, timeout=60, check=True)
        return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """One call, as the package's documentation shows it."""
    from eas_prediction import PredictClient, StringRequest
    from eas_prediction.exception import PredictException
    from eas_prediction.request import Request

    class JsonRequest(Request):
        """How its users send JSON: a request class of their own."""

        def __init__(self, content: dict) -> None:
            self._content = content

        def to_string(self) -> str:
            return json.dumps(self._content)

        def parse_response(self, content: bytes) -> str:
            return json.dumps(json.loads(content))

    ask = json.load(sys.stdin)
    client = PredictClient(ask["url"], ask["service"])
    client.set_token(ask["token"])
    client.set_retry_count(3)
    client.init()
    request = StringRequest(ask["body"]) if isinstance(ask["body"], str) else JsonRequest(ask["body"])
    try:
        answer = client.predict(request)
        told = {"answer": answer if isinstance(answer, str) else answer.response_data.decode()}
    except PredictException as error:
        told = {"code": error.code, "message": error.message.decode()}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
