"""
The job: what to do, to whom, through which service, within which limits; and what a checked job can be asked.

Says what each value must be. Must never read a file or the environment, nor hold a secret.
"""

import unicodedata
from collections.abc import Iterator
from typing import Annotated, Any, Literal
from urllib.parse import quote, urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.fields import FieldInfo

from bulkissue.job import cron
from bulkissue.job.actions import ACTIONS, Action
from bulkissue.job.target import Target

IdentifierType = Literal["id", "mobile", "email", "external_id"]

#: Every source name of the service, on one route or another.
Source = Literal[
    "ALL",
    "ECOMMERCE",
    "FACEBOOK",
    "INSTORE",
    "JD",
    "LINE",
    "MARTJACK",
    "MOBILE_APP",
    "TAOBAO",
    "TMALL",
    "WEBSITE",
    "WEB_ENGAGE",
]


# What one value must be. Each check says, to stand behind the value, what is wrong with it.


def _plain(text: str) -> str:
    # "DIWALI26 " and "DIWALI26" would be two targets, and history would miss one of them.
    if not text.isprintable():
        raise ValueError("has a character that cannot be printed")
    if text != text.strip():
        raise ValueError("begins or ends with a space")
    return text


def _folder_name(text: str) -> str:
    # A target's names become folders of the state folder, percent-encoded; file systems end at 255 bytes.
    if len(quote(_plain(text), safe="")) > 240:
        raise ValueError("is too long for the name of a folder")
    return text


def _occasion(text: str) -> str:
    # Two keyboards may compose é differently; it is one occasion all the same.
    return _folder_name(unicodedata.normalize("NFC", text))


def _environment(text: str) -> str:
    # As hosts are: Production and production are one place.
    return _folder_name(text.lower())


def _path_text(text: str) -> str:
    if text.startswith("~"):
        raise ValueError("begins with ~, which is not expanded here; write the whole path")
    return text


def _encoding(name: str) -> str:
    try:
        " ".encode(name)  # rot13 and hex are codecs, but not of text, and refuse this
    except (LookupError, ValueError):
        raise ValueError("is not a text encoding known to Python, such as utf-8, cp1252 or utf-16") from None
    return name


def _delimiter(text: str) -> str:
    text = "\t" if text.lower() in {"tab", "\\t"} else text
    if len(text) != 1 or not text.isascii() or text in '"\r\n':
        raise ValueError('must be one ASCII character such as "," ";" or "|", or "tab"')
    return text


def _escape(text: str) -> str:
    if len(text) != 1 or not text.isascii() or not text.isprintable() or text.isalnum() or text in "\"',;| ":
        raise ValueError('must be one character such as "\\\\"; a quote before a quote needs no setting')
    return text


def _upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


def _header_value(text: str) -> str:
    if not text.isascii() or not text.isprintable():
        raise ValueError("must be printable ASCII, as it is sent in a header")
    return text


def _each_once(values: list[str]) -> list[str]:
    if not values:
        raise ValueError("must name at least one")
    if twice := sorted({value for value in values if values.count(value) > 1}):
        raise ValueError(f"names {', '.join(twice)} twice")
    return values


#: How the paths of the service's endpoints begin.
_ENDPOINTS = ("/v2/promotion", "/v2/coupon", "/v2/customers", "/v3/oauth", "/api_gateway/v1")


def _base_url(text: str) -> str:
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("must be printable ASCII without spaces")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise ValueError("is no URL: its host or port cannot be read") from None
    if "@" in parts.netloc:
        raise ValueError("must not carry a name or password; they come by environment variables")
    if "?" in text or "#" in text:
        raise ValueError("must not carry a query or a fragment")
    if parts.scheme not in {"https", "http"} or not host or host.endswith(".") or port == 0:
        raise ValueError('must look like "https://eu.api.example.com"')
    if parts.scheme == "http" and host not in {"127.0.0.1", "::1", "localhost"}:
        raise ValueError("must be https; http is only for 127.0.0.1, ::1 and localhost")
    for endpoint in _ENDPOINTS:
        if endpoint in parts.path:
            raise ValueError(f'must end before "{endpoint}": the program adds the endpoint\'s path itself')
    # One service, one spelling: the host is part of the target.
    return f"{parts.scheme}://{parts.netloc.lower()}{parts.path.rstrip('/')}"


_Number = Annotated[int, Field(gt=0, le=9_223_372_036_854_775_807)]
_RowCount = Annotated[int, Field(ge=0, le=1_000_000_000)]
_Timeout = Annotated[float, Field(gt=0, le=3600)]
_Wait = Annotated[float, Field(ge=0, le=604_800)]
_Text = Annotated[str, Field(min_length=1), AfterValidator(_plain)]
_FolderName = Annotated[str, Field(min_length=1), AfterValidator(_folder_name)]
_Occasion = Annotated[str, Field(max_length=64), AfterValidator(_occasion)]
_Environment = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_environment)]
_Path = Annotated[str, Field(min_length=1), AfterValidator(_path_text)]
_Column = Annotated[str, Field(min_length=1)]
_SheetName = Annotated[str, Field(min_length=1)]
_SheetNumber = Annotated[int, Field(ge=1, le=10_000)]
_Encoding = Annotated[str, AfterValidator(_encoding)]
_Delimiter = Annotated[str, AfterValidator(_delimiter)]
_Escape = Annotated[str, AfterValidator(_escape)]
_Source = Annotated[Source, BeforeValidator(_upper)]
_CountryCode = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,2}$")]
_HeaderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")]
_HeaderValue = Annotated[str, AfterValidator(_header_value)]
_Cron = Annotated[str, AfterValidator(cron.checked)]


class Section(BaseModel):
    """A table of the job file: unknown keys are errors, values are never coerced from another type."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class JobSection(Section):
    """What to do."""

    name: _Text = Field(description="What people call this job.")
    action: Annotated[Action, Field(strict=False, description="What is done to every customer of the input.")]
    occasion: _Occasion = Field(
        default="", description="Another occasion issues the same target once more, on purpose."
    )
    unattended: bool = Field(default=False, description="May send without --yes where nobody can be asked.")


class TargetSection(Section):
    """What is issued. Which keys are needed depends on the action."""

    program_id: _Number | None = Field(default=None, description="The loyalty program, for enrol, earn and issue.")
    promotion_id: _Number | _FolderName | None = Field(
        default=None, description="A number for enrol, earn and issue; text for cart."
    )
    promo_identifier: _FolderName | None = Field(
        default=None, description="The promotion's own identifier, for enrol and earn beside or instead of its id."
    )
    series_id: _Number | None = Field(default=None, description="The coupon series, for coupon.")
    context_id: _Text | None = Field(default=None, description="For cart; the run's id if left out.")


class ColumnsSection(Section):
    """Ours = theirs: the input's column for each of these. What is left out is found by its usual names."""

    identifier_type: _Column | None = Field(default=None, description="Long form: the column of types.")
    identifier: _Column | None = Field(default=None, description="Long form: the column of values.")
    id: _Column | None = Field(default=None, description="Wide form: the service's own customer ids.")
    mobile: _Column | None = Field(default=None, description="Wide form: the mobile numbers.")
    email: _Column | None = Field(default=None, description="Wide form: the email addresses.")
    external_id: _Column | None = Field(default=None, description="Wide form: the external ids.")
    source: _Column | None = Field(default=None, description="The source each customer is registered with.")
    account_id: _Column | None = Field(default=None, description="The account id, for sources that need one.")


class InputSection(Section):
    """The files of customers."""

    paths: list[_Path] = Field(default=[], description="Files or patterns, relative to the job file.")
    encoding: _Encoding | None = Field(default=None, description="Recognised if left out.")
    delimiter: _Delimiter | None = Field(default=None, description="One character, or tab; recognised if left out.")
    escape: _Escape | None = Field(
        default=None, description="What stands before a quote inside a quoted cell, where that is not another quote."
    )
    ignore: list[_Column] = Field(default=[], description="Columns that are not used for anything, and kept.")
    header: bool = Field(
        default=True, description="false: the first line is a customer; columns are named column_1, column_2, …"
    )
    header_row: _SheetNumber = Field(
        default=1, description="The line, or row of the sheet, where the names stand; what is above is left out."
    )
    sheet: _SheetName | _SheetNumber | None = Field(
        default=None, description="Of a workbook, by name or number from 1; needed where several have cells."
    )
    hidden_rows: Literal["take", "leave"] | None = Field(
        default=None, description="What to do with a workbook's hidden rows; without it such a workbook is refused."
    )
    done: Literal["move"] | None = Field(
        default=None, description="move: files go into a folder done beside them once their run is settled."
    )
    settle_seconds: Annotated[float, Field(ge=0, le=86_400)] = Field(
        default=0.0, description="Files that were changed less than so long ago are left alone."
    )
    marker: Annotated[str, Field(min_length=2, max_length=32, pattern=r"^\.[A-Za-z0-9._-]+$")] | None = Field(
        default=None, description="A file is taken only once another is there, named like it with this behind: .done"
    )
    columns: ColumnsSection = ColumnsSection()


def _pattern(text: str) -> str:
    import polars as pl  # its regular expressions are those that will be used; takes a while to load

    try:
        pl.Series([""]).str.contains(f"^(?:{text})$")
    except pl.exceptions.PolarsError:
        raise ValueError("is no regular expression (of Rust's regex crate: without look-around)") from None
    return text


class ExternalIdSection(Section):
    """What an external id of the organisation looks like."""

    pattern: Annotated[str, Field(min_length=1), AfterValidator(_pattern)] | None = Field(
        default=None, description="A regular expression that a whole external id must match, such as M[0-9]{8}."
    )


def _region(name: str) -> str:
    from phonenumbers import SUPPORTED_REGIONS  # takes a while to load

    if name.upper() not in SUPPORTED_REGIONS:
        raise ValueError("is no ISO country code of two letters that phone numbers are known of, such as GB or IN")
    return name.upper()


class MobileSection(Section):
    """How mobiles are written, by libphonenumber's rules."""

    region: Annotated[str, AfterValidator(_region)] | None = Field(
        default=None, description="ISO country: national forms, with and without trunk prefix, are understood."
    )
    invalid: Literal["reject", "warn"] = Field(
        default="reject", description="With region: what to do with numbers that no mobile of their country has."
    )


class IdentifiersSection(Section):
    """How the input's values are read as identifiers."""

    default_type: IdentifierType | None = Field(default=None, description="The type, where the file has only values.")
    default_source: _Source | None = Field(default=None, description="The source, where the file has none.")
    country_code: _CountryCode | None = Field(
        default=None, description="one to three digits without + or 00, put before national mobile numbers"
    )
    national_length: Annotated[int, Field(ge=4, le=14)] = Field(default=10, description="Digits of a national number.")
    prefer: Annotated[list[IdentifierType], AfterValidator(_each_once)] = Field(
        default=["id", "mobile", "email", "external_id"],
        description="Wide form: the first of these that is usable is taken.",
    )
    external_id: ExternalIdSection = ExternalIdSection()
    mobile: MobileSection = MobileSection()
    fall_back: bool = Field(
        default=True, description="Send a row by its next identifier where the preferred one is there and unusable."
    )
    resolve_customers: bool = Field(
        default=False, description="Look customers up first and de-duplicate by the service's own id."
    )

    @property
    def calling_code(self) -> str | None:
        """What national mobiles get in front, by country code or region."""
        if self.country_code is None and self.mobile.region is not None:
            from phonenumbers import country_code_for_region

            return str(country_code_for_region(self.mobile.region))
        return self.country_code


class AuthSection(Section):
    """How to sign in. Secrets come by environment or file, never from here."""

    method: Literal["oauth", "basic"] = Field(
        default="oauth", description="Client key and secret, or the username and password of a till."
    )
    token_header: _HeaderName = Field(
        default="X-CAP-API-OAUTH-TOKEN", description="the name of an HTTP header: letters, digits and hyphens"
    )
    token_prefix: _HeaderValue = Field(default="", description="Put before the token, as it stands.")


class AttributionSection(Section):
    """The service's attribution headers, oauth only."""

    entity_type: Annotated[_HeaderValue, Field(min_length=1)] | None = Field(
        default=None, description="Such as TILL or STORE_CODE."
    )
    entity_code: Annotated[_HeaderValue, Field(min_length=1)] | None = Field(
        default=None, description="Which one; the service refuses a request that names a wrong one."
    )


class LimitsSection(Section):
    """How fast, how many at once, how long and how often."""

    requests_per_minute: Annotated[int, Field(gt=0, le=1_000_000)] = Field(
        default=1000, description="The allowance; it is used evenly, and no sixty seconds hold more."
    )
    max_requests_share: Annotated[float, Field(gt=0, le=1)] = Field(
        default=1.0, description="The share of the allowance that is used; the rest is left to others."
    )
    concurrency: Annotated[int, Field(ge=1, le=256)] = Field(default=8, description="Requests in flight.")
    batch_size: Annotated[int, Field(ge=1, le=100)] = Field(
        default=100, description="Rows of one request: what one lost answer can make unknown."
    )
    connect_timeout_seconds: _Timeout = Field(default=10.0, description="Bounds the making of a connection.")
    read_timeout_seconds: _Timeout = Field(default=60.0, description="Bounds the whole answer.")
    max_attempts: Annotated[int, Field(ge=1, le=20)] = Field(
        default=5, description="Sendings of one batch, where each earlier one is proven not applied."
    )

    @property
    def pace(self) -> float:
        """Requests per minute that this job may use."""
        return self.requests_per_minute * self.max_requests_share


class ApiSection(Section):
    """The service."""

    base_url: Annotated[str, AfterValidator(_base_url)] = Field(description="https, without the endpoint's path.")
    environment: _Environment | None = Field(default=None, description="Part of the target; the host if left out.")
    other_services: list[_Environment] = Field(
        default=[], description="Environments in the state folder that are other services than this one."
    )
    trust_env: bool = Field(default=False, description="Use the proxies that the environment names.")
    auth: AuthSection = AuthSection()
    attribution: AttributionSection = AttributionSection()
    limits: LimitsSection = LimitsSection()

    @property
    def host(self) -> str:
        """Of the service, without its port; in small letters."""
        return urlsplit(self.base_url).hostname or ""


class GuardsSection(Section):
    """When a run stops by itself."""

    max_unknown: _RowCount = Field(default=100, description="Unknown rows; beyond it the run stops.")
    max_failed: _RowCount = Field(default=1000, description="Failed rows; beyond it the run stops.")
    max_failed_ratio: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.5, description="Share of failed rows, once 200 rows were answered; beyond it the run stops."
    )
    canary: bool = Field(default=True, description="One request at a time until the first success.")
    canary_rows: Annotated[_RowCount, Field(ge=1)] = Field(
        default=100, description="Stop after so many rows were answered without a success."
    )


class ReconcileSection(Section):
    """Reading the service back."""

    settle_after_seconds: _Wait = Field(
        default=120.0, description="How long an issue may stay invisible to reading back."
    )
    after_run: bool = Field(
        default=False, description="Reconcile a run with unknown rows by itself, once settle_after_seconds have passed."
    )
    clock_skew_seconds: _Wait = Field(default=300.0, description="How far the service's clock may be from ours.")


class OutputSection(Section):
    """Where runs and memory are kept. Relative to the job file."""

    runs_dir: _Path = Field(default="runs", description="One folder per run.")
    state_dir: _Path = Field(default="state", description="History and locks, on a local disk; keep it.")
    formats: Annotated[list[Literal["csv", "xlsx", "parquet"]], AfterValidator(_each_once)] = Field(
        default=["csv"], description="How ledgers are written; as CSV always."
    )
    csv_bom: bool = Field(
        default=False, description="Begin CSV ledgers with a byte-order mark; they have one where the input had."
    )
    keep_days: Annotated[int, Field(ge=1, le=36_500)] | None = Field(
        default=None, description="For `bulkissue purge`: how long personal data of settled runs is kept."
    )
    duplicates: Literal["rows", "count"] = Field(
        default="rows",
        description="count: duplicate.csv has its first 1,000 rows, and the others are counted by reason.",
    )


class NotifySection(Section):
    """Who is told how a run ended. URLs may hold secrets: they come by environment or file, never from here."""

    on: Annotated[list[Literal["needs_person", "finished", "stopped"]], AfterValidator(_each_once)] = Field(
        default=["needs_person"], description="Of what: a person has to act, a run has come to its end, or has not."
    )
    command: list[_Text] = Field(
        default=[], description="A program and its arguments; what happened is JSON on its standard input."
    )
    webhook: bool = Field(default=False, description="POST it as JSON to the URL of BULKISSUE_NOTIFY_WEBHOOK.")
    apprise: bool = Field(
        default=False, description="Mail or chat by apprise, to the URLs of BULKISSUE_NOTIFY_APPRISE."
    )
    timeout_seconds: _Timeout = Field(default=10.0, description="For each of them; who takes longer is given up.")


class MetricsSection(Section):
    """What Prometheus is told, by node_exporter's textfile collector."""

    textfile: _Path | None = Field(
        default=None, description="Ends in .prom; {job} in it is the job's name. Relative to the job file."
    )


class ScheduleSection(Section):
    """When it runs; for `bulkissue schedule`, which writes it down for cron, systemd or Kubernetes."""

    cron: _Cron | None = Field(default=None, description="Minute, hour, day, month and weekday, as in a crontab.")


class Job(Section):
    """A whole job file."""

    config_version: Literal[1] = Field(description="The version of this file's format.")
    job: JobSection
    target: TargetSection
    input: InputSection = InputSection()
    identifiers: IdentifiersSection = IdentifiersSection()
    api: ApiSection
    guards: GuardsSection = GuardsSection()
    reconcile: ReconcileSection = ReconcileSection()
    output: OutputSection = OutputSection()
    schedule: ScheduleSection = ScheduleSection()
    notify: NotifySection = NotifySection()
    metrics: MetricsSection = MetricsSection()

    def issues(self) -> Target:
        """The target this job issues."""
        text = {key: "" if value is None else str(value) for key, value in self.target}
        return Target(
            environment=self.api.environment or self.api.host,
            effect=ACTIONS[self.job.action].effect,
            promotion_id=text["promotion_id"],
            promo_identifier=text["promo_identifier"],
            series_id=text["series_id"],
            occasion=self.job.occasion,
        )


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a job file, for editors. What depends on several keys at once is beyond it."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Job.model_json_schema()}
    over = {
        "type": "object",
        "description": "What `--environment` puts over `[api]`; a table for each name.",
        "additionalProperties": {"type": "object", "description": "Keys of `[api]`."},
    }
    return schema | {"title": "bulkissue job file", "properties": {**schema["properties"], "environments": over}}


def _keys(section: type[Section], table: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, info in section.model_fields.items():
        yield f"{table}{name}", info
        if isinstance(info.annotation, type) and issubclass(info.annotation, Section):
            yield from _keys(info.annotation, f"{table}{name}.")


#: Every key and table of a job file by its dotted name, in the order of the file.
KEYS: dict[str, FieldInfo] = dict(_keys(Job))
TABLES: set[str] = {key.rpartition(".")[0] for key in KEYS} - {""}
SETTINGS: dict[str, FieldInfo] = {key: info for key, info in KEYS.items() if key not in TABLES}


def at(tree: Any, key: str) -> Any:
    """The value under a dotted key of a job file's tree; None where there is none."""
    for name in key.split("."):
        tree = tree.get(name) if isinstance(tree, dict) else None
    return tree
