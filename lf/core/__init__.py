"""Types, errors, tables, files and console: the base of all other folders."""

from lf.core.errors import BadInput as BadInput
from lf.core.errors import BadModel as BadModel
from lf.core.errors import ConversionFailed as ConversionFailed
from lf.core.errors import DiskFull as DiskFull
from lf.core.errors import GateFailed as GateFailed
from lf.core.errors import LfError as LfError
from lf.core.errors import Unavailable as Unavailable
from lf.core.errors import UsageError as UsageError
from lf.core.errors import blaming as blaming
from lf.core.errors import one_line as one_line
from lf.core.registry import hint as hint
from lf.core.registry import pick as pick
from lf.core.steps import Step as Step
from lf.core.types import CARD_SCHEMA as CARD_SCHEMA
from lf.core.types import FEATURES as FEATURES
from lf.core.types import MAX_PIXELS as MAX_PIXELS
from lf.core.types import Array as Array
from lf.core.types import Artifact as Artifact
from lf.core.types import Card as Card
from lf.core.types import Features as Features
from lf.core.types import Segmentation as Segmentation
from lf.core.types import Session as Session
from lf.core.types import SessionInfo as SessionInfo
