"""What a store's failure means, in a few words for people."""

from __future__ import annotations

import os
import re

# Where a machine of a cloud gets credentials, if none are set: of AWS, Google and Azure.
_METADATA_SERVICE = re.compile(r"https?://[^/\s]+/(latest/(api/token|meta-data)|computeMetadata/v1|metadata/identity)")
_NO_RANGES = "Range request not supported"
_BEYOND_END = ("416 Range Not Satisfiable", "InvalidRange", "StartTooLarge", "InvalidGetRange")
_DENIED = ("PermissionDeniedError", "UnauthenticatedError")
_UNREACHABLE = ("kind: Connect", "ConnectError", "dns error")
_CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_SKIP_SIGNATURE=true for a public bucket)",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS (or GOOGLE_SKIP_SIGNATURE=true for a public bucket)",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY (or AZURE_SKIP_SIGNATURE=true)",
}
_ENDPOINTS = {"s3": "AWS_ENDPOINT_URL", "gs": "GOOGLE_BASE_URL", "az": "AZURE_STORAGE_ENDPOINT"}


def is_unreachable(error: BaseException) -> bool:
    """Whether no connection was made at all."""
    return any(mark in str(error) for mark in _UNREACHABLE)


def is_of_metadata_service(error: BaseException) -> bool:
    """Whether it was the cloud's metadata service that failed, which is asked where no credentials are set."""
    return _METADATA_SERVICE.search(str(error)) is not None


def is_unanswered(error: BaseException) -> bool:
    """Whether nobody answered: no connection was made, or nothing came over it in time."""
    return is_unreachable(error) or "kind: Timeout" in str(error)


def is_final(error: BaseException) -> bool:
    """Whether the same request would fail again: what is asked for is not there, is refused, or cannot be done."""
    return type(error).__name__ in ("NotFoundError", *_DENIED) or _NO_RANGES in str(error) or is_beyond_end(error)


def is_beyond_end(error: BaseException) -> bool:
    """Whether a part was asked for that begins beyond the end of an object."""
    return any(mark in str(error) for mark in _BEYOND_END)


def reason_of(error: BaseException, url: str) -> str:
    """Why, on one line, and what to do."""
    text, vendor = str(error), _vendor(url)
    credentials = _CREDENTIALS.get(vendor, "those of the server")
    if is_of_metadata_service(error) or "MissingAccount" in text:
        reason = f"no credentials were found; set {credentials}"
    elif is_unreachable(error):
        reason = _unreachable(text, _ENDPOINTS.get(vendor))
    elif "NoSuchBucket" in text or "The specified bucket does not exist" in text:
        reason = "there is no such bucket"
    elif _is_denied(error, text):
        reason = f"the store refuses it: look at the permissions, and at {credentials}"
    elif _NO_RANGES in text:
        reason = "the server gives no parts of files (range requests), which is how samples are read"
    elif "redirect" in text.lower():
        reason = f"the bucket is elsewhere: set AWS_REGION (now {os.environ.get('AWS_REGION', 'not set')})"
    elif type(error).__name__ in ("NotFoundError", "FileNotFoundError"):
        reason = "there is no such object"
    else:
        reason = " ".join(text.partition("Debug source")[0].split())[:300]
    return reason


def _unreachable(text: str, endpoint: str | None) -> str:
    found = re.search(r"https?://[^/\s,]+", text)
    what = "its name is not known" if "dns error" in text else "it does not answer"
    where = found[0] if found else "the store"
    return f"no connection to {where}, {what}: look at the network" + (f" and at {endpoint}" if endpoint else "")


def _is_denied(error: BaseException, text: str) -> bool:
    return type(error).__name__ in _DENIED or "403 Forbidden" in text or "401 Unauthorized" in text


def _vendor(url: str) -> str:
    scheme = url.partition("://")[0]
    return {"s3a": "s3", "azure": "az", "abfs": "az", "abfss": "az"}.get(scheme, scheme)
