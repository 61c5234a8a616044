"""The variables that are no settings of the application, each described once: those of Docker Compose and of processes.

`.env.example` and docs/configuration.md are made from them.
"""

from typing import Final, NamedTuple


class ComposeVariable(NamedTuple):
    """A variable that docker-compose.yml alone reads: its name, its default, and one line of Markdown about it."""

    name: str
    default: str
    description: str


class ProcessVariable(NamedTuple):
    """A variable that single processes read: its name, the processes, and one line of Markdown about it."""

    name: str
    read_by: str
    description: str


COMPOSE: Final = (
    ComposeVariable(
        "POSTGRES_PASSWORD", "", "Password of the database's owner, who migrates; no other service has it."
    ),
    ComposeVariable("DATABASE_PASSWORD", "", "Password of the application's login there."),
    ComposeVariable("REDIS_PASSWORD", "", "Password of Redis."),
    ComposeVariable("GRAFANA_PASSWORD", "", "Password of the user admin in Grafana."),
    ComposeVariable(
        "DATABASE_LOGIN",
        "articurated_api",
        "Name of the application's login, given to the database when its volume is made.",
    ),
    ComposeVariable("ARTICURATED_IMAGE", "articurated:local", "Image that is built and run."),
    ComposeVariable(
        "ARTICURATED_TARGET",
        "production",
        "Which image is built: `production`, or `development`, which adds the mock gateway, the demo and sample data.",
    ),
    ComposeVariable(
        "COMPOSE_PROFILES",
        "",
        "Services beyond the usual ones, separated by commas: `development` for the mock gateway and the mail catcher;"
        " `monitoring` for Prometheus and Grafana; `s3` for an S3 server, with `STORAGE_TYPE=s3` and"
        " `AWS_ACCESS_KEY_ID` and its secret set.",
    ),
    ComposeVariable(
        "METRICS_API_URL",
        "http://api:8000",
        "Where Prometheus asks the API; in production the address of the proxy with TLS, for example"
        " `https://shop.example`.",
    ),
    ComposeVariable("METRICS_API_KEY", "", "Key with which it asks; production needs that of a manager."),
    ComposeVariable("PUBLISH_ADDRESS", "127.0.0.1", "Address of this machine that the ports below are published on."),
    ComposeVariable("API_PORT", "8000", "Published port of the API."),
    ComposeVariable("MAILPIT_PORT", "8025", "Published port of the mailbox."),
    ComposeVariable("FLOWER_PORT", "5555", "Published port of Flower."),
    ComposeVariable("GATEWAY_PORT", "8002", "Published port of the mock gateway."),
    ComposeVariable("PROMETHEUS_UI_PORT", "9090", "Published port of Prometheus."),
    ComposeVariable("GRAFANA_PORT", "3000", "Published port of Grafana."),
)

PROCESSES: Final = (
    ProcessVariable(
        "ARTICURATED_DATA_DIR",
        "`up`, `demo` and the operator commands",
        "the data folder, instead of `.articurated` in the checkout",
    ),
    ProcessVariable(
        "READY_FILE", "`api`, `worker`, `beat`, `relay`, `backup run`", "file that the process touches once it works"
    ),
    ProcessVariable("GATEWAY_DATA_DIR", "the mock gateway", "folder of its ledger"),
    ProcessVariable("PAYMENT_WEBHOOK_URL", "the mock gateway", "where it posts its events"),
    ProcessVariable(
        "BEAT_SCHEDULE_FILE",
        "`beat`",
        "file in which the ticks are remembered; `celerybeat-schedule` in the current folder by default",
    ),
    ProcessVariable(
        "PROMETHEUS_MULTIPROC_DIR",
        "`api`, `worker`, `relay`, `beat`",
        "an empty folder in which processes of one machine add up their metrics",
    ),
)
