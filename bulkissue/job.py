"""
The job file: what to do, to whom, through which service, within which limits.

Reads and checks; it must never send anything, and never keep a secret in a value that is printed.
"""

from enum import StrEnum
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field

from bulkissue.target import EFFECT_OF, Target

IdentifierType = Literal["id", "mobile", "email", "external_id"]


class Action(StrEnum):
    """What a job does to its customers."""

    ENROL = "enrol"
    EARN = "earn"
    ISSUE = "issue"
    CART = "cart"
    COUPON = "coupon"


class Section(BaseModel):
    """A table of the job file: unknown keys are errors, values are never coerced from another type."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class JobSection(Section):
    """`[job]`."""

    name: Annotated[str, Field(min_length=1)]
    action: Annotated[Action, Field(strict=False)]
    occasion: str = ""
    unattended: bool = False


class TargetSection(Section):
    """`[target]`."""

    program_id: Annotated[int, Field(gt=0)] | None = None
    promotion_id: Annotated[int, Field(gt=0)] | Annotated[str, Field(min_length=1)] | None = None
    promo_identifier: Annotated[str, Field(min_length=1)] | None = None
    series_id: Annotated[int, Field(gt=0)] | None = None
    context_id: Annotated[str, Field(min_length=1)] | None = None


class ColumnsSection(Section):
    """`[input.columns]`: ours = theirs."""

    identifier_type: str | None = None
    identifier: str | None = None
    id: str | None = None
    mobile: str | None = None
    email: str | None = None
    external_id: str | None = None
    source: str | None = None
    account_id: str | None = None


class InputSection(Section):
    """`[input]`."""

    paths: list[str] = []
    encoding: str | None = None
    delimiter: str | None = None
    columns: ColumnsSection = ColumnsSection()


class IdentifiersSection(Section):
    """`[identifiers]`."""

    default_type: IdentifierType | None = None
    default_source: str | None = None
    country_code: Annotated[str, Field(pattern=r"^[1-9][0-9]{0,2}$")] | None = None
    national_length: Annotated[int, Field(ge=4, le=14)] = 10
    prefer: list[IdentifierType] = ["id", "mobile", "email", "external_id"]
    resolve_customers: bool = False


class AuthSection(Section):
    """`[api.auth]`. Secrets come by environment or file, never from here."""

    method: Literal["oauth", "basic"] = "oauth"
    token_header: str = "X-CAP-API-OAUTH-TOKEN"  # noqa: S105 - a header's name
    token_prefix: str = ""


class AttributionSection(Section):
    """`[api.attribution]`: the service's attribution headers, oauth only."""

    entity_type: str | None = None
    entity_code: str | None = None


class LimitsSection(Section):
    """`[api.limits]`."""

    requests_per_minute: Annotated[int, Field(gt=0)] = 1000
    lanes: Annotated[int, Field(ge=1, le=256)] = 8
    batch_size: Annotated[int, Field(ge=1, le=100)] = 100
    connect_timeout_seconds: Annotated[float, Field(gt=0)] = 10.0
    read_timeout_seconds: Annotated[float, Field(gt=0)] = 60.0
    max_attempts: Annotated[int, Field(ge=1, le=20)] = 5


class ApiSection(Section):
    """`[api]`."""

    base_url: str
    environment: str | None = None
    trust_env: bool = False
    auth: AuthSection = AuthSection()
    attribution: AttributionSection = AttributionSection()
    limits: LimitsSection = LimitsSection()


class GuardsSection(Section):
    """`[guards]`."""

    max_unknown: Annotated[int, Field(ge=0)] = 100
    max_failed: Annotated[int, Field(ge=0)] = 1000
    max_failed_ratio: Annotated[float, Field(ge=0, le=1)] = 0.5
    canary: bool = True
    canary_rows: Annotated[int, Field(ge=1)] = 100


class ReconcileSection(Section):
    """`[reconcile]`."""

    settle_after_seconds: Annotated[float, Field(ge=0)] = 120.0
    clock_skew_seconds: Annotated[float, Field(ge=0)] = 300.0


class OutputSection(Section):
    """`[output]`."""

    runs_dir: str = "runs"
    state_dir: str = "state"
    formats: list[Literal["csv", "parquet"]] = ["csv"]


class Job(Section):
    """A whole job file."""

    config_version: Literal[1]
    job: JobSection
    target: TargetSection
    input: InputSection = InputSection()
    identifiers: IdentifiersSection = IdentifiersSection()
    api: ApiSection
    guards: GuardsSection = GuardsSection()
    reconcile: ReconcileSection = ReconcileSection()
    output: OutputSection = OutputSection()

    def issues(self) -> Target:
        """The target this job issues."""
        text = {key: "" if value is None else str(value) for key, value in self.target}
        return Target(
            environment=self.api.environment or (urlsplit(self.api.base_url).hostname or ""),
            effect=EFFECT_OF[self.job.action],
            promotion_id=text["promotion_id"],
            promo_identifier=text["promo_identifier"],
            series_id=text["series_id"],
            occasion=self.job.occasion,
        )
