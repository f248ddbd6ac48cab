"""`spvmia evidence`: a folder that an auditor can sign, and what is not what it was."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Optional

import typer

from spvmia_plugin.cli.output import Json, Quiet, line_printer, newest, print_json
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.util.console import shown


def evidence(
    results: Annotated[
        Optional[Path],  # noqa: UP045 - typer reads this at run time, on Python 3.10 too
        typer.Argument(metavar="RESULTS", help="lm_eval's --output_path, or one results_*.json in it."),
    ] = None,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--output", "-o", metavar="DIR", help="New folder for the evidence."),
    ] = None,
    verify: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--verify", metavar="DIR", help="Check a folder of evidence instead of writing one."),
    ] = None,
    sign: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--sign", metavar="KEY", help="Sign with this private key of ssh (ssh-keygen -Y)."),
    ] = None,
    minisign: Annotated[bool, typer.Option("--minisign", help="The key is one of minisign.")] = False,
    allowed_signers: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--allowed-signers", metavar="FILE", help="With --verify: who may sign, as ssh-keygen reads it."),
    ] = None,
    identity: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--identity", metavar="NAME", help="With --allowed-signers: who is said to have signed."),
    ] = None,
    public_key: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--public-key", metavar="FILE", help="With --verify: minisign's public key."),
    ] = None,
    auditor: Annotated[Optional[str], typer.Option("--auditor", help="Who ran the audit.")] = None,  # noqa: UP045
    organisation: Annotated[Optional[str], typer.Option("--organisation", help="For whom.")] = None,  # noqa: UP045
    relation: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--relation", help="Of the auditor to the model's developer: first party, third party, ..."),
    ] = None,
    statement: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--statement", help="What else the auditor says."),
    ] = None,
    samples: Annotated[
        bool, typer.Option("--samples/--no-samples", help="The scores of single records. They NAME training records.")
    ] = True,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write one folder with all that an auditor asks for, or check one.

    Report, results, what each attacker was given, attacks with settings and thresholds, how records were drawn, hashes
    of models and data, conditions, residual risk, the clauses it speaks to, and a list of hashes, signed if asked.
    `--verify` names each file that was changed, is missing, or was added, and exits with 1 then.

        spvmia evidence results --output evidence --auditor "A. Auditor" --organisation Acme
        spvmia evidence results --output evidence --sign ~/.ssh/id_ed25519
        spvmia evidence --verify evidence
        spvmia evidence --verify evidence --allowed-signers signers --identity a.auditor@acme.example
    """
    say = line_printer(quiet=quiet, as_json=as_json)
    named = {
        "RESULTS": results,
        "--output": output,
        "--sign": sign,
        "--minisign": minisign or None,
        "--auditor": auditor,
        "--organisation": organisation,
        "--relation": relation,
        "--statement": statement,
        "--no-samples": None if samples else True,
        "--allowed-signers": allowed_signers,
        "--identity": identity,
        "--public-key": public_key,
    }
    _check_together(verify, [option for option, value in named.items() if value is not None])
    if verify is not None:
        _verify(verify, allowed_signers, identity, public_key, say, as_json=as_json)
        return
    if results is None or output is None:
        missing = "RESULTS" if results is None else "--output"
        raise SpvmiaError(
            f"{missing}: expected results and a folder to write, got none; or check one with --verify DIR"
        )
    from spvmia_plugin.evidence.folder import Signatory, write_evidence

    signatory = Signatory(auditor, organisation, relation, statement)
    files = write_evidence(newest(results, say), output, signatory, samples=samples, key=sign, minisign=minisign)
    for path in files:
        say(shown(str(path)))
    if as_json:
        print_json({"folder": str(output), "files": [str(path.relative_to(output)) for path in files]})


_OF_CHECKS = ("--allowed-signers", "--identity", "--public-key")
"""Options of `--verify`."""


def _check_together(verify: Path | None, given: Sequence[str]) -> None:
    """Refuse options that would be passed over: who gives them believes that they do something."""
    checks = [option for option in given if option in _OF_CHECKS]
    writes = [option for option in given if option not in _OF_CHECKS]
    if verify is not None and writes:
        raise SpvmiaError(
            f"--verify: expected only what checks a folder beside it ({', '.join(_OF_CHECKS)}), got "
            f"{', '.join(writes)}, which writes one; do one at a time"
        )
    if verify is None and checks:
        raise SpvmiaError(
            f"{checks[0]}: expected --verify DIR beside it, got nothing to check; name the folder, or leave it out"
        )
    if "--minisign" in writes and "--sign" not in writes:
        raise SpvmiaError(
            "--minisign: expected --sign KEY beside it, a private key of minisign, got none: nothing would be signed; "
            "name the key, or leave it out"
        )


def _verify(
    folder: Path,
    allowed_signers: Path | None,
    identity: str | None,
    public_key: Path | None,
    say: Callable[[str], None],
    *,
    as_json: bool,
) -> None:
    from dataclasses import asdict

    from spvmia_plugin.evidence.sealing import verify as check

    found = check(folder, allowed_signers=allowed_signers, identity=identity, public_key=public_key)
    for line in found.lines():
        say(shown(line))
    say(shown(found.signature))
    say("every file is what it was" if found.holds else "the folder is not what it was")
    if as_json:
        print_json({**asdict(found), "holds": found.holds})
    raise typer.Exit(0 if found.holds else 1)
