"""Types that several requests share: strict text, money, addresses, pages, the one error shape."""

import math
import re
import unicodedata
from collections.abc import Callable, Mapping
from decimal import Decimal
from itertools import islice
from typing import Annotated, Any

import orjson
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationInfo,
    field_validator,
    model_validator,
)

from app import mail_address
from app.config import MONEY_LIMIT
from app.schemas.iso_codes import COUNTRIES, CURRENCIES
from app.schemas.postal_codes import WITHOUT_POSTAL_CODES
from app.utils.card_numbers import any_holds_card_number, holds_card_number

CARD_NUMBER_REFUSED = "holds what looks like a card number; none is ever stored here"

COUNTRY_ALPHA_3 = {"USA": "US"}
"""Accepted besides ISO 3166-1 alpha-2."""


_CONTROLS_OF_A_LINE = r"\u0000-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069"
_CONTROLS_OF_A_BLOCK = r"\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069"
# Private use and noncharacters of the first 65,536 code points. The others are not in the published patterns: the
# dialects of regular expressions do not agree on how to write them.
_NEVER_SHOWN = r"\ue000-\uf8ff\ufdd0-\ufdef\ufffe\uffff"
QUERY_TEXT_PATTERN = f"^[^{_CONTROLS_OF_A_LINE}]*$"
TEXT_LINE_PATTERN = f"^[^{_CONTROLS_OF_A_LINE}{_NEVER_SHOWN}]*$"
TEXT_BLOCK_PATTERN = f"^[^{_CONTROLS_OF_A_BLOCK}{_NEVER_SHOWN}]*$"
"""What the document says of texts; the validators below say which fault a text has. A test compares the two."""


# Controls, line separators, and what turns text around: none belongs into a name. Compiled, for text is long.
_NOT_IN_A_LINE = re.compile(f"[{_CONTROLS_OF_A_LINE}]")
_NOT_IN_A_BLOCK = re.compile(f"[{_CONTROLS_OF_A_BLOCK}]")
# Unicode never gives these code points a meaning, so no font can show them. Unassigned code points are accepted: a newer
# version of Unicode than Python's tables may have assigned them.
_NOT_SHOWN_BY_ANY_FONT = re.compile(
    f"[{_NEVER_SHOWN}"
    # Planes 15 and 16 are private use as a whole; the last two code points of each plane are noncharacters.
    + "".join(rf"\U{plane:04x}fffe\U{plane:04x}ffff" for plane in range(1, 15))
    + r"\U000f0000-\U0010ffff]"
)
_NOT_SEEN = frozenset({"Cc", "Cf", "Zl", "Zp", "Zs", "Mn", "Mc", "Me"})
"""Categories of characters that show nothing without another one."""


def has_control_characters(value: str) -> bool:
    """Return whether a line of text holds what steers a screen, a log or a header instead of showing."""
    return _NOT_IN_A_LINE.search(value) is not None


def _no_control_characters(value: str) -> str:
    if has_control_characters(value):
        raise ValueError("must not contain control characters")
    return value


def _no_control_but_line_breaks(value: str) -> str:
    if _NOT_IN_A_BLOCK.search(value):
        raise ValueError("must not contain control characters")
    return value


def _can_be_shown(value: str) -> str:
    """Refuse what no font can show: texts are printed on documents and in mails."""
    if _NOT_SHOWN_BY_ANY_FONT.search(value):
        raise ValueError("must not contain private-use characters or noncharacters")
    return value


def _no_card_number(value: str) -> str:
    if holds_card_number(value):
        raise ValueError(CARD_NUMBER_REFUSED)
    return value


def _not_blank(value: str) -> str:
    # Nearly always the first character is seen.
    if all(unicodedata.category(character) in _NOT_SEEN for character in value):
        raise ValueError("must not be blank")
    return value


def text_line(maximum: int, minimum: int = 1) -> Any:
    """Return the type of one line of text: a string of 1 to `maximum` characters.

    None is a control character, a private-use character or a noncharacter.
    """
    return Annotated[
        str,
        Field(strict=True, min_length=minimum, max_length=maximum, json_schema_extra={"pattern": TEXT_LINE_PATTERN}),
        AfterValidator(_no_control_characters),
        AfterValidator(_can_be_shown),
        AfterValidator(_not_blank),
    ]


def text_block(maximum: int) -> Any:
    """Return the type of a note: like a line, but line breaks and tabs are allowed, and no card numbers."""
    return Annotated[
        str,
        Field(strict=True, min_length=1, max_length=maximum, json_schema_extra={"pattern": TEXT_BLOCK_PATTERN}),
        AfterValidator(_no_control_but_line_breaks),
        AfterValidator(_can_be_shown),
        AfterValidator(_not_blank),
        AfterValidator(_no_card_number),
    ]


AMOUNT_PATTERN = r"^[0-9]{1,10}(\.[0-9]{1,2})?$"
RATE_PATTERN = r"^(0(\.[0-9]{1,4})?|1(\.0{1,4})?)$"
"""What the document says of amounts and rates in text. Python's own number syntax is wider: `1_0`, `1e1`, ` 10`."""


def _number_or_text(pattern: str) -> Callable[[Any], Any]:
    """Return a validator that takes a JSON number, a float by its shortest text, or text of the published pattern."""
    # Python's `$` would also match before a line break at the end.
    published = re.compile(pattern.removesuffix("$"))

    def number_or_text(value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
            raise ValueError("must be a number or a string")  # noqa: TRY004 - pydantic wants ValueError
        if isinstance(value, float):
            if not math.isfinite(value):
                raise ValueError("must be finite")
            return repr(value)
        if isinstance(value, str) and published.fullmatch(value) is None:
            raise ValueError(f"must be a number, or text of the pattern {pattern}")
        return value

    return number_or_text


def _whole_number(value: Any) -> Any:
    """Take 2.0 for 2, as JSON Schema does; what is no whole number goes on to be refused as what it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def as_number(value: Decimal) -> float | int:
    """Return an amount as the JSON number of the same text; exact for all that NUMERIC(12,2) holds."""
    return float(value)


_AmountInput = (
    Annotated[float, Field(ge=0, le=float(MONEY_LIMIT))]
    | Annotated[str, Field(pattern=AMOUNT_PATTERN, examples=["19.90"])]
)
_CountInput = Annotated[int, Field(ge=1, le=1_000_000)]
_RateInput = Annotated[float, Field(ge=0, le=1)] | Annotated[str, Field(pattern=RATE_PATTERN, examples=["0.2"])]

Money = Annotated[
    Decimal,
    Field(ge=0, le=MONEY_LIMIT, max_digits=12, decimal_places=2, allow_inf_nan=False),
    BeforeValidator(_number_or_text(AMOUNT_PATTERN), json_schema_input_type=_AmountInput),
    PlainSerializer(as_number, return_type=float, when_used="json"),
]
"""An amount: at most two decimals, within NUMERIC(12,2); a JSON number, or a string, in; a number out."""

Count = Annotated[
    int, Field(strict=True, ge=1, le=1_000_000), BeforeValidator(_whole_number, json_schema_input_type=_CountInput)
]
"""How many of something: at least one."""

TaxRate = Annotated[
    Decimal,
    Field(ge=0, le=1, max_digits=5, decimal_places=4, allow_inf_nan=False),
    BeforeValidator(_number_or_text(RATE_PATTERN), json_schema_input_type=_RateInput),
    PlainSerializer(as_number, return_type=float, when_used="json"),
]
"""A tax rate as a fraction: 0.2 is 20 %."""

Email = Annotated[
    str,
    Field(
        strict=True,
        max_length=mail_address.LONGEST,
        description="At most 64 characters before the @. An international domain is converted to its A-labels.",
        json_schema_extra={"pattern": mail_address.PATTERN},
    ),
    AfterValidator(mail_address.mail_address),
]
"""A mail address that the mailer can send to, as it is sent to."""

_PHONE = re.compile(r"\+?[0-9(][0-9 ().\-/]{3,38}", re.ASCII)
_LONGEST_PHONE, _SHORTEST_PHONE = 15, 4
"""Digits (ITU-T E.164)."""


def _is_phone(value: str) -> str:
    digits = sum(character.isdigit() for character in value)
    if not _PHONE.fullmatch(value) or not _SHORTEST_PHONE <= digits <= _LONGEST_PHONE:
        raise ValueError("must be a telephone number, such as +33 6 12 34 56 78")
    return value


Phone = Annotated[
    str,
    Field(strict=True, max_length=40, json_schema_extra={"pattern": r"^\+?[0-9(][0-9 ().\-/]{3,38}$"}),
    AfterValidator(_is_phone),
    AfterValidator(_no_card_number),
]
"""A telephone number as people write it, at most 15 digits."""

VatId = Annotated[str, Field(strict=True, pattern=r"^[A-Z]{2}[A-Z0-9+*. -]{2,28}$", examples=["FR40303265045"])]
"""A number for VAT with its country's prefix."""

Locale = Annotated[
    str, Field(strict=True, pattern=r"^[A-Za-z]{2,3}(-[A-Za-z]{4})?(-([A-Za-z]{2}|[0-9]{3}))?$", examples=["fr-FR"])
]
"""A language tag (BCP 47): a language, with an optional script and region."""

Timestamp = Annotated[AwareDatetime, Field(description="RFC 3339, UTC")]


UNKNOWN_NAMES_REPORTED = 20
"""Of one object; a refusal shows as many faults in all."""


class Request(BaseModel):
    """Base of every body: an unknown field is refused, not ignored."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=False, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _few_unknown_names(cls, value: Any) -> Any:
        """Leave out unknown names beyond those that a refusal can show: each would cost an error of its own."""
        if not isinstance(value, dict) or len(value) <= len(cls.model_fields) + UNKNOWN_NAMES_REPORTED:
            return value
        known = {name: value[name] for name in cls.model_fields if name in value}
        unknown = (name for name in value if name not in known)
        return known | {name: value[name] for name in islice(unknown, UNKNOWN_NAMES_REPORTED)}


class Answer(BaseModel):
    """Base of every documented response."""

    model_config = ConfigDict(extra="forbid")


def _country(value: Any) -> Any:
    return COUNTRY_ALPHA_3.get(value, value) if isinstance(value, str) else value


def _is_country(value: str) -> str:
    if value not in COUNTRIES:
        raise ValueError("must be an ISO 3166-1 alpha-2 code")
    return value


def _is_currency(value: str) -> str:
    if value not in CURRENCIES:
        raise ValueError("must be an ISO 4217 code")
    return value


Currency = Annotated[str, Field(strict=True, pattern=r"^[A-Z]{3}$"), AfterValidator(_is_currency)]


def _postal_code(maximum: int) -> Any:
    described = Field(validate_default=True, description="Required where the country has postal codes.")
    return Annotated[text_line(maximum) | None, described]


class Address(Request):
    """A postal address; country is ISO 3166-1 alpha-2 (`USA` is accepted)."""

    name: text_line(200) | None = None  # type: ignore[valid-type]
    street: text_line(200)  # type: ignore[valid-type]
    street2: text_line(200) | None = None  # type: ignore[valid-type]
    city: text_line(100)  # type: ignore[valid-type]
    state: text_line(100) | None = None  # type: ignore[valid-type]
    country: Annotated[
        str,
        BeforeValidator(_country, json_schema_input_type=Annotated[str, Field(pattern=r"^([A-Z]{2}|USA)$")]),
        Field(strict=True, pattern=r"^[A-Z]{2}$"),
        AfterValidator(_is_country),
    ]
    postal_code: _postal_code(20) = None  # type: ignore[valid-type]

    @field_validator("postal_code")
    @classmethod
    def _where_there_are_some(cls, value: str | None, info: ValidationInfo) -> str | None:
        country = info.data.get("country")
        if value is None and country is not None and country not in WITHOUT_POSTAL_CODES:
            raise ValueError(f"is required in {country}")
        return value


METADATA_KEYS, METADATA_KEY_LENGTH, METADATA_BYTES = 50, 64, 16_384
"""Names in metadata, characters of each, and bytes of all of it as compact JSON in UTF-8."""


def _small(value: Any) -> Any:
    """Refuse metadata that is too large before any of it is looked into."""
    if isinstance(value, dict):
        if len(value) > METADATA_KEYS:
            raise ValueError(f"must not have more than {METADATA_KEYS} keys")
        try:
            size = len(orjson.dumps(value))
        except orjson.JSONEncodeError:
            raise ValueError("must be JSON") from None
        if size > METADATA_BYTES:
            raise ValueError(f"must not have more than {METADATA_BYTES} bytes as JSON")
    return value


def _scalar(value: Any) -> Any:
    if isinstance(value, dict | list):
        raise ValueError("must be text, a number, true, false or null")  # noqa: TRY004 - pydantic wants ValueError
    if isinstance(value, float) and value == 0 and math.copysign(1, value) < 0:
        # `jsonb` has no negative zero: it would come back as 0.0.
        raise ValueError("must not be -0.0; write 0.0")
    return value


def _without_card_numbers(value: Mapping[str, Any]) -> Mapping[str, Any]:
    if any_holds_card_number(value):
        raise ValueError(CARD_NUMBER_REFUSED)
    return value


_Scalar = Annotated[Any, BeforeValidator(_scalar, json_schema_input_type=str | float | bool | None)]

Metadata = Annotated[
    dict[Annotated[str, Field(max_length=METADATA_KEY_LENGTH)], _Scalar],
    BeforeValidator(_small),
    Field(
        json_schema_extra={"maxProperties": METADATA_KEYS},
        description=f"At most {METADATA_BYTES} bytes as JSON in all.",
    ),
    AfterValidator(_without_card_numbers),
]
"""Facts of the caller's own: kept, given back, never interpreted. They are not in lists."""


class Pagination(Answer):
    """Where a page of a list is, and how to get the next one."""

    limit: int
    next_cursor: str | None = None
    offset: int | None = None
    total: int | None = None
    total_is_estimate: Annotated[
        bool | None,
        Field(description="True where more rows match than are counted, and `total` is the estimate of the database."),
    ] = None


class ErrorBody(Answer):
    """The one error: a stable code, a sentence for people, facts for programs."""

    code: str
    message: str
    details: dict[str, Any] | list[dict[str, Any]]
    request_id: str


class ErrorResponse(Answer):
    """Every answer with a status of 400 or more has exactly this shape."""

    error: ErrorBody


_MOMENT = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,20}")


def _as_rfc_3339(value: Any) -> Any:
    """Refuse what pydantic would take for a time besides: 1700000000 may be seconds, or half a date."""
    if isinstance(value, str) and not _MOMENT.fullmatch(value):
        raise ValueError("must be a time as RFC 3339 writes it, with its zone: 2026-11-23T10:15:00Z")
    return value


def _as_digits(value: Any) -> Any:
    if isinstance(value, str) and not _WHOLE_NUMBER.fullmatch(value):
        raise ValueError("must be a whole number")
    return value


def _as_true_or_false(value: Any) -> Any:
    if isinstance(value, str) and value not in {"true", "false"}:
        raise ValueError("must be true or false")
    return value


Moment = Annotated[AwareDatetime, BeforeValidator(_as_rfc_3339)]
"""A time in a query."""


def whole_number(minimum: int, maximum: int) -> Any:
    """Return the type of a number in a query: its digits, and nothing that could be read in two ways.

    The bounds come before the validator, or pydantic leaves them out of the document.
    """
    return Annotated[int, Field(ge=minimum, le=maximum), BeforeValidator(_as_digits)]


Flag = Annotated[bool, BeforeValidator(_as_true_or_false)]
"""A switch in a query."""


class PageQuery(BaseModel):
    """`limit` with `cursor` or `offset`; `total` only on request, because it has to be counted."""

    model_config = ConfigDict(extra="forbid")

    limit: whole_number(1, 100) = 20  # type: ignore[valid-type]
    cursor: Annotated[str, Field(max_length=200, json_schema_extra={"pattern": "^[A-Za-z0-9_-]+$"})] | None = None
    offset: whole_number(0, 10_000) | None = None  # type: ignore[valid-type]
    include_total: Flag = False


class CreatedQuery(PageQuery):
    """A page, narrowed to when things were created: from (inclusive) and to (exclusive)."""

    created_from: Moment | None = None
    created_to: Moment | None = None
