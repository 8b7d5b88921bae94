"""The formats of strings in a JSON Schema: those that a pattern of ours enforces, llguidance's own, and loose ones."""

__all__ = ["FORMATS", "LLGUIDANCES", "LOOSE"]

_LEAP = "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)"
_DATE = (
    "(?:[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    f"|02-(?:0[1-9]|1[0-9]|2[0-8]))|{_LEAP}-02-29)"
)
_TIME = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,9})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
# RFC 3339, in the form that most programs read: years from 0001, T and Z in capitals, no leap seconds.
FORMATS = {
    "date": ({"pattern": f"^{_DATE}$"}, {"pattern": "^(?:[1-9]|0[1-9]|00[1-9]|000[1-9])"}),
    "date-time": ({"pattern": f"^{_DATE}T{_TIME}$"}, {"pattern": "^(?:[1-9]|0[1-9]|00[1-9]|000[1-9])"}),
    "time": ({"pattern": f"^{_TIME}$"},),
}
LLGUIDANCES = ("duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri")  # the formats that llguidance enforces
LOOSE = ("password", "float", "double")  # OpenAPI's formats that do not restrict a value
