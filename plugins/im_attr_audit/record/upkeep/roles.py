"""The database's roles. Their names are public: other people's logins and grants hang on them."""

from typing import Final

OWNER: Final = "attr_audit_owner"
WRITER: Final = "attr_audit_writer"
READER: Final = "attr_audit_reader"
SEALER: Final = "attr_audit_sealer"
