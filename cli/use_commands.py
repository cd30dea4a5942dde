"""``roundhouse stress | logs | call``: try what runs, and look at it."""

from __future__ import annotations

import json
import ssl
import sys
import time
from collections import deque
from dataclasses import asdict
from typing import Annotated

import httpx
import typer

from cli.screen import err, out, say, show_json, show_table
from configs.order import load_order
from configs.stack import Stack, load_stack
from gateway.tokens import TokenFile
from loadtest.port import open_loadtest
from rollout.errors import NotFound, RoundhouseError, Unavailable

Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]


def stress(
    service: Annotated[str, typer.Argument(help="A service that was released.")],
    version: Annotated[int, typer.Option(help="The version; 0: the one in service.")] = 0,
    load: Annotated[str, typer.Option(help="A file of configs/loads.")] = "short",
    as_json: Json = False,
) -> None:
    """Load one ready instance of a version directly; a page with plots is left behind. Exit code 1: requests failed.

    Example: `roundhouse stress chat --load short`
    """
    stack = load_stack()
    plan, directory = load_order(stack, service, version, load, time.time())

    def second(values: dict[str, float]) -> None:
        if not as_json:
            say("  " + "  ".join(f"{name} {value:g}" for name, value in values.items()))

    report = open_loadtest(stack.loadtest()).run(plan, directory, second)
    if as_json:
        show_json(asdict(report))
    else:
        quantiles = (("TTFT", report.ttft), ("TPOT", report.tpot), ("E2E", report.e2e))
        rows = [(n, *(f"{v * 1000:.1f}" for v in (q.p50, q.p95, q.p99)), q.n) for n, q in quantiles if q]
        show_table("milliseconds", ("", "p50", "p95", "p99", "samples"), rows)
        out.print(
            f"{report.requests} requests, {report.failed} failed, {report.tokens_per_s:.1f} tokens/s; {report.page}"
        )
    raise typer.Exit(1 if report.failed or report.cut else 0)


def logs(
    part: Annotated[str, typer.Argument(help="A part or an instance; empty: list what there is.")] = "",
    lines: Annotated[int, typer.Option("--lines", "-n", help="How many of the last lines.")] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines come.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="List the logs as JSON.")] = False,
) -> None:
    """Show the log of a part of the stack or of an engine instance.

    Example: `roundhouse logs agent -n 20` or `roundhouse logs chat-v1-0 -f`
    """
    stack = load_stack()
    found = {p.stem: p for p in sorted(stack.logs.rglob("*.log"))}
    if as_json and not part:
        show_json([{"name": n, "bytes": p.stat().st_size, "file": str(p)} for n, p in found.items()])
        return
    if not part:
        show_table("", ("log", "KB", "file"), [(n, p.stat().st_size // 1024, p) for n, p in found.items()])
        return
    if part not in found:
        raise NotFound(f"there is no log of {part!r}; there are: {', '.join(found) or 'none'}")
    with found[part].open(errors="replace") as file:
        for line in deque(file, maxlen=lines):
            sys.stdout.write(line)
        while follow:
            sys.stdout.write(file.readline() or _pause())
            sys.stdout.flush()


def call(
    service: Annotated[str, typer.Argument(help="A service that was released.")],
    prompt: Annotated[str, typer.Argument(help="What to ask.")] = "The capital of France is",
    chat: Annotated[bool, typer.Option(help="Use /v1/chat/completions instead of /v1/completions.")] = False,
    max_tokens: Annotated[int, typer.Option(help="Length of the answer.")] = 32,
    as_json: Json = False,
) -> None:
    """Call a service through the gateway with its token, and stream the answer.

    Example: `roundhouse call chat "What is a roundhouse?" --chat`
    """
    stack = load_stack()
    path = "chat/completions" if chat else "completions"
    asked = {"messages": [{"role": "user", "content": prompt}]} if chat else {"prompt": prompt}
    body = {**asked, "max_tokens": max_tokens, "stream": not as_json, "temperature": 0}
    headers = {"Authorization": f"Bearer {TokenFile(stack.tokens).secret(service)}"}
    url = f"{stack.gateway_url}/api/predict/{service}/v1/{path}"
    try:
        trust = trusted(stack)
        with httpx.stream(
            "POST", url, json=body, headers=headers, timeout=120.0, trust_env=False, verify=trust
        ) as answer:
            if answer.is_error:
                raise CallFailed(f"the gateway answered {answer.status_code}: {answer.read().decode()[:500]}")
            if as_json:
                sys.stdout.write(answer.read().decode() + "\n")
                return
            for line in answer.iter_lines():
                sys.stdout.write(_text(line))
                sys.stdout.flush()
            sys.stdout.write("\n")
            err.print(
                f"version {answer.headers.get('x-roundhouse-version')}, request {answer.headers.get('x-request-id')}"
            )
    except httpx.HTTPError as error:
        raise Unavailable(f"the gateway does not answer at {url}: {error}; is the stack up?") from error


def trusted(stack: Stack) -> ssl.SSLContext | bool:
    """Whom a call of the gateway trusts: with TLS its own certificate alone, whatever name that is for.

    The gateway is called by its address, which certificates seldom bear. Raises Unavailable.
    """
    if stack.tls is None:
        return True
    try:
        context = ssl.create_default_context(cafile=str(stack.project / stack.tls.certificate))
    except (OSError, ssl.SSLError) as error:
        raise Unavailable(f"the gateway's certificate {stack.tls.certificate} cannot be read: {error}") from error
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # it need not lead to a root that this machine knows
    return context


class CallFailed(RoundhouseError):
    """The service answered with an error."""


def _text(line: str) -> str:
    if not line.startswith("data: ") or line == "data: [DONE]":
        return ""
    choice = (json.loads(line[6:]).get("choices") or [{}])[0]
    return choice.get("text") or (choice.get("delta") or {}).get("content") or ""


def _pause() -> str:
    time.sleep(0.2)
    return ""
