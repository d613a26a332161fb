"""All results of one run: every form of its report is made from them."""

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec

from pytest_quantcheck.controls.certificate import Certificate, ControlResult
from pytest_quantcheck.records import Comparison, NotRun, Verdict

Schema = Literal[2]
"""Version of the report's file format."""

RunOutcome = Literal["passed", "failed", "broken", "partial"]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All results of one run; each comparison says where its two measurements come from.

    `outcome` follows the verdicts, whatever marks or plugins made of the tests: `passed` where every candidate may be
    released; `broken` where all that speaks against it is what could not be read or measured; `partial` where nothing
    speaks against it and tests were not run; else `failed`. `model`: what the reference is called; `settings`: the
    run's options; `profile`: name and version of the threshold profile; `causes`: for each candidate, what went wrong
    in each test without a verdict; `not_run`: tests that were left out, by candidate or control; `certificate`: present
    when controls were run.
    """

    schema: Schema
    tool_version: str
    created: Annotated[datetime, msgspec.Meta(tz=True)]
    outcome: RunOutcome
    model: str = ""
    profile: str
    settings: dict[str, Any]
    verdicts: tuple[Verdict, ...]
    comparisons: tuple[Comparison, ...]
    causes: dict[str, tuple[str, ...]] = {}
    not_run: tuple[NotRun, ...] = ()
    certificate: Certificate | None = None

    @property
    def controls(self) -> tuple[ControlResult, ...]:
        """The results of the certificate, none without one."""
        return self.certificate.controls if self.certificate else ()
