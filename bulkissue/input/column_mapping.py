"""
Column names: which will do, and which column plays which role by the job's mapping or its usual spelling.

Pure. It must never choose between two columns that both fit: what is issued to the wrong column's
customer cannot be taken back.
"""

import difflib
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from bulkissue.errors import InputRefused
from bulkissue.job.model import ColumnsSection
from bulkissue.outcomes import IDENTIFIER_TYPES

#: `long`: a type column and a value column. `wide`: a column per type. `values`: a value column alone.
Form = Literal["long", "wide", "values"]

#: What nobody sees on a screen: white space, no-break spaces, zero-width and direction marks, byte-order marks.
INVISIBLE = (
    "\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f \x85\xa0\xad\u061c\u1680\u180e\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007"
    "\u2008\u2009\u200a\u200b\u200c\u200d\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u202f\u205f\u2060\u2061"
    "\u2062\u2063\u2064\u2066\u2067\u2068\u2069\u3000\ufeff"
)

#: Each role's usual names, as `plain` gives them. Only names that can hardly mean anything else: a card or a member
#: number is not said to be the external id.
SPELLINGS: dict[str, tuple[str, ...]] = {
    "id": ("id", "customerid", "custid", "userid"),
    "mobile": (
        *("mobile", "mobileno", "mobilenum", "mobilenumber", "mobilephone", "mobilephoneno", "mobilephonenumber"),
        *("phone", "phoneno", "phonenum", "phonenumber", "telephone", "telephoneno", "telephonenumber", "tel", "telno"),
        *("cell", "cellno", "cellnumber", "cellphone", "msisdn", "contactno", "contactnumber", "contactmobile"),
        *("phone1value", "phone1", "mobile1", "primaryphone", "primarymobile", "sms", "smsnumber", "smsphonenumber"),
        *("customermobile", "customermobileno", "customermobilenumber", "customerphone", "customerphonenumber"),
    ),
    "email": (
        *("email", "emailid", "emailaddress", "mail", "mailid", "customeremail", "customeremailid"),
        *("email1value", "email1", "emailaddress1", "primaryemail"),
    ),
    "external_id": ("externalid", "extid", "customerexternalid", "externalcustomerid"),
    "identifier_type": ("type", "identifiertype", "identifiername", "idtype", "customeridentifiertype"),
    "identifier": ("value", "identifier", "identifiervalue", "customeridentifier", "customeridentifiervalue"),
    "source": ("source", "channel"),
    "account_id": ("account", "accountid"),
}

_LONG = ("identifier_type", "identifier")
_DIGITS_OF_A_CUSTOMER = 9  # ids, mobiles and cards have as many; years, months and shop numbers do not
_DIGITS_SHOWN = 7
_SHOWN = 40


@dataclass(frozen=True, slots=True)
class Roles:
    """
    The columns of one file that are read for identifiers.

    Attributes:
        form: How the file says its identifiers.
        columns: Our role to their header.
        notes: What the user is told of the choice.
    """

    form: Form
    columns: dict[str, str]
    notes: tuple[str, ...] = ()


def plain(name: str) -> str:
    """A name as it is compared: case-folded, nothing but letters and digits."""
    return "".join(character for character in name.casefold() if character.isalnum())


def kept_names(names: Sequence[str | None], file: str) -> list[str]:
    """
    The header's names as they stay, without surrounding white space and invisible characters; each once.

    A column without a name is `column_7` by its place; of a name that stands twice the second is `Name [2]`, and
    `find_roles` refuses to use either.

    Raises:
        InputRefused: The line looks like a customer and not like a header.
    """
    kept = [(name or "").strip(INVISIBLE) for name in names]
    if any(_looks_like_a_customer(name) for name in kept):
        place = next(place for place, name in enumerate(kept, 1) if _looks_like_a_customer(name))
        raise InputRefused(
            f"{file}: the first line looks like a customer, not like column names (field {place})",
            hint="put a line of column names above the first customer; or set [input] header = false, and name the "
            "columns under [input.columns] as column_1, column_2 …",
        )
    kept = [name or f"column_{place}" for place, name in enumerate(kept, 1)]
    patterns = [name for name in kept if name == "*" or (name.startswith("^") and name.endswith("$"))]
    if patterns:  # polars would take such a name for many columns
        raise InputRefused(f"{file}: {_quoted(patterns)} cannot be the name of a column", hint="give it another name")
    seen: Counter[str] = Counter()
    unique: list[str] = []
    for name in kept:
        seen[name] += 1
        unique.append(name if seen[name] == 1 else _another(name, seen[name]))
    return unique


def find_roles(names: Sequence[str], mapping: ColumnsSection, file: str, *, ignore: Collection[str] = ()) -> Roles:
    """
    Find the columns that say who each customer is.

    A mapped column rules; what the mapping leaves out is found by its usual spelling. A mapped column of one
    form puts the other form's guessed columns aside; where both forms are guessed, the long one is taken.

    Args:
        names: The file's headers, as `kept_names` gives them, without bulkissue's own.
        mapping: `[input.columns]`.
        file: The file's name, for messages.
        ignore: Columns that are not used for anything.

    Raises:
        InputRefused: A column merely looks like the service's own ids and stands beside other identifiers; a mapped
            column is missing (all of them are named), two columns fit one role, the mapping
            mixes the forms, or no column with identifiers is found.
    """
    mapped = {role: header.strip(INVISIBLE) for role, header in mapping if header is not None}
    _refuse_mapping(mapped, names, file)
    guessed = {
        role: [name for name in names if plain(name) in spellings and name not in (*mapped.values(), *ignore)]
        for role, spellings in SPELLINGS.items()
        if role not in mapped
    }
    found = mapped.keys() | {role for role, fitting in guessed.items() if fitting}
    form, ignored = _form(found, mapped, names, file)
    wanted = (*(_LONG if form != "wide" else IDENTIFIER_TYPES), "source", "account_id")
    doubled = {role: guessed[role] for role in wanted if len(guessed.get(role, ())) > 1}
    if doubled:
        raise InputRefused(
            "; ".join(f"{file}: {_quoted(fitting)} could each be the {role}" for role, fitting in doubled.items()),
            hint="say which one to take:\n" + _mapping_lines({role: fitting[0] for role, fitting in doubled.items()}),
        )
    columns = {role: mapped.get(role) or guessed[role][0] for role in wanted if role in found}
    twice = [name for name in columns.values() if _another(name, 2) in names]
    if twice:
        raise InputRefused(
            f"{file}: the column name {_quoted(twice)} stands more than once, and is used",
            hint="give each of these columns its own name",
        )
    others = [role for role in IDENTIFIER_TYPES if role in columns and role != "id"]
    if form == "wide" and "id" in columns and "id" not in mapped and others:
        # Any CRM's export has a "Customer ID" of its own: taken for the service's, it leads to strangers.
        raise InputRefused(
            f'{file}: "{columns["id"]}" may be the service\'s own customer ids, or those of another program',
            hint="if they are the service's:\n"
            + _mapping_lines({"id": columns["id"]})
            + "\nif they are not:\n[input]\n"
            f'ignore = ["{columns["id"]}"]',
        )
    unused = [name for role in ignored for name in guessed.get(role, [])]
    if not unused:
        return Roles(form, columns)
    ruling = _quoted([columns[role] for role in (*_LONG, *IDENTIFIER_TYPES) if role in columns])
    return Roles(form, columns, (f"identifiers are read from {ruling}, not from {_quoted(unused)}",))


def _form(found: set[str], mapped: dict[str, str], names: Sequence[str], file: str) -> tuple[Form, tuple[str, ...]]:
    """The file's form, and the roles that are left aside for it."""
    wide_mapped = not mapped.keys().isdisjoint(IDENTIFIER_TYPES)
    if not mapped.keys().isdisjoint(_LONG):
        if wide_mapped:
            raise InputRefused(
                f"{file}: [input.columns] maps both a value column and a column per identifier type",
                hint="map identifier_type and identifier, or id, mobile, email and external_id; not both",
            )
        if "identifier" not in found:
            raise InputRefused(
                f"{file}: [input.columns] maps identifier_type, but no column holds the identifiers",
                hint="say which column it is:\n" + _mapping_lines({"identifier": "…"}),
            )
        return ("long" if "identifier_type" in found else "values"), IDENTIFIER_TYPES
    if wide_mapped:
        return "wide", _LONG
    if found.issuperset(_LONG):
        return "long", IDENTIFIER_TYPES
    if not found.isdisjoint(IDENTIFIER_TYPES):
        return "wide", ()
    if "identifier" in found:
        return "values", ()
    raise InputRefused(
        f"{file}: no column with identifiers is recognised among {_quoted(names)}",
        hint=_delimiter_hint(names)
        or "say which column it is, by its type:\n"
        + _mapping_lines({"mobile": "…"})
        + "   # or id, email, external_id",
    )


def _delimiter_hint(names: Sequence[str]) -> str:
    """What to set where the only column's name looks like several names."""
    known = {spelling for spellings in SPELLINGS.values() for spelling in spellings}
    marks = sorted({mark for mark in names[0] if not mark.isalnum() and mark not in " _-."}) if len(names) == 1 else []
    for mark in marks:
        if any(plain(part) in known for part in names[0].split(mark)):
            shown = "tab" if mark == "\t" else mark
            return f'the first line looks like several names: set [input] delimiter = "{shown}"'
    return ""


def _refuse_mapping(mapped: dict[str, str], names: Sequence[str], file: str) -> None:
    """Refuse a mapping that names columns the file does not have, or one column for two roles."""
    missing = []
    for role, header in mapped.items():
        if header not in names:
            by_plain = {plain(name): name for name in names}
            near = difflib.get_close_matches(plain(header), by_plain, n=1)
            missing.append(f'{role} = "{header}"' + (f' (the nearest is "{by_plain[near[0]]}")' if near else ""))
    if missing:
        raise InputRefused(
            f"{file}: [input.columns] names columns that this file does not have: {', '.join(missing)}",
            hint=_delimiter_hint(names) or f"its columns are {_quoted(names)}",
        )
    twice = [header for header, count in Counter(mapped.values()).items() if count > 1]
    if twice:
        raise InputRefused(
            f"{file}: [input.columns] gives {_quoted(twice)} more than one role", hint="map each column once"
        )


def _looks_like_a_customer(name: str) -> bool:
    if re.fullmatch(r"[^\s@]+@[^\s@]+\.[^\s@]+", name) or re.fullmatch(r"[0-9]+[.,]?[0-9]*[eE]\+?[0-9]+", name):
        return True
    digits = sum(character.isdigit() for character in name)
    return digits >= _DIGITS_OF_A_CUSTOMER and not re.search(r"[^\d\s'+().,/\-]", name)


def _may_be_shown(name: str) -> bool:
    digits = sum(character.isdigit() for character in name)
    return digits < _DIGITS_SHOWN and "@" not in name and any(character.isalpha() for character in name)


def _mapping_lines(lines: dict[str, str]) -> str:
    return "\n".join(["[input.columns]", *(f'{role} = "{header}"' for role, header in lines.items())])


def _quoted(names: Sequence[str]) -> str:
    """Names for a message; one that might be a customer's (digits, an address) is not shown."""
    shown = [f'"{name}"' if _may_be_shown(name) else '"…"' for name in names[:_SHOWN]]
    return ", ".join(shown) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _another(name: str, number: int) -> str:
    return f"{name} [{number}]"
