"""What Airflow shows for the connection type: the form's labels, fields and suggestions.

Airflow 3.3 builds the form from this dict alone and does not import the hook for it. The checks
run in the browser only; :mod:`im_attr_audit.tencent.target` makes the real ones. The port field
is shown because Airflow 3.3.2 cannot test a saved connection without a port.
"""

from __future__ import annotations

from typing import Any

from im_attr_audit.tencent.fields import (
    API_PATHS,
    DEFAULT_API,
    DEFAULT_APP_GROUP,
    DEFAULT_TIMEOUT,
    DEFAULT_USERSIG_TTL,
    MAX_TIMEOUT,
    SDK_APP_ID,
    USERSIG_TTL,
)
from im_attr_audit.tencent.regions import REGION_HOSTS


def get_provider_info() -> dict[str, Any]:
    """The entry point ``apache_airflow_provider``; ``package-name`` is the distribution's."""
    return {
        "package-name": "im-attr-audit",
        "name": "Tencent Cloud Chat attribute-name audit",
        "description": "Records every change of the user-attribute names of Tencent Cloud Chat "
        "apps.",
        "connection-types": [
            {
                "connection-type": "tencent_im",
                "hook-name": "Tencent Cloud Chat app",
                "hook-class-name": "im_attr_audit.hook.TencentImHook",
                "ui-field-behaviour": {
                    "hidden-fields": ["schema"],
                    "relabeling": {
                        "login": "Administrator identifier",
                        "password": "Secret key",
                        "host": "Host (only to override the region's)",
                        "port": "Port (Test needs it: 443, or the host's own)",
                    },
                    "placeholders": {
                        "login": "administrator",
                        "password": "the app's secret key from the vendor's console",
                        "host": "adminapisgp.im.qcloud.com or https://host:port",
                        "port": "443",
                    },
                },
                "conn-fields": _fields(),
            }
        ],
    }


def _fields() -> dict[str, dict[str, Any]]:
    return {
        "region": {
            "label": "Region",
            "description": "The vendor's data centre that the app was created in. For a label of "
            "your own, write it as region under Extra Fields JSON and give its host.",
            "schema": {"type": "string", "enum": list(REGION_HOSTS), "default": "singapore"},
        },
        "sdk_app_id": {
            "label": "SDKAppID",
            "description": "The app's number in the vendor's console.",
            "schema": {"type": "integer", "minimum": SDK_APP_ID.start},
        },
        "app_group": {
            "label": "App group",
            "description": "Give apps that should have the same names the same group.",
            "schema": {"type": ["string", "null"], "default": DEFAULT_APP_GROUP, "maxLength": 128},
        },
        "api": {
            "label": "API",
            "description": "Use timpush for apps with the push plug-in. The two APIs can return "
            "different names.",
            "schema": {"type": "string", "enum": list(API_PATHS), "default": DEFAULT_API},
        },
        "ca_bundle": {
            "label": "CA bundle",
            "description": "A PEM file on the workers, for a private certificate authority.",
            "schema": {"type": ["string", "null"], "default": None},
        },
        "timeout": {
            "label": "Time-out (s)",
            "description": "For the whole call with its body. The vendor asks for more than 3.",
            "schema": {
                "type": ["number", "null"],
                "exclusiveMinimum": 0,
                "maximum": MAX_TIMEOUT,
                "default": DEFAULT_TIMEOUT,
            },
        },
        "usersig_ttl": {
            "label": "UserSig life (s)",
            "description": "How long a signature is valid. The vendor advises a day or more.",
            "schema": {
                "type": ["integer", "null"],
                "minimum": USERSIG_TTL.start,
                "maximum": USERSIG_TTL.stop - 1,
                "default": DEFAULT_USERSIG_TTL,
            },
        },
    }
