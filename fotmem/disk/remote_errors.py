"""Says in a few words what an object storage answered, and what helps."""

import re

ANSWER = re.compile(r"Server returned non-2xx status code: (\d+)[^:]*: ?(.*)", re.DOTALL)
CODE = re.compile(r"<Code>(.*?)</Code>")
MESSAGE = re.compile(r"<Message>(.*?)</Message>", re.DOTALL)
CAUSE = re.compile(r"(?:HTTP error|Generic \w+ error): (?!Error performing)(.*)")

NO_CREDENTIALS = ("/latest/api/token", "/latest/meta-data", "metadata.google", "169.254.169.254")
"""Where credentials are looked for when none are given."""
CREDENTIALS = (
    "give credentials that may do this in environment variables (for S3: AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY, or AWS_SKIP_SIGNATURE=true for a public bucket)"
)
OTHERWISE = "is the URL right, and can the storage be reached? Then try again"
CURES = {
    "NoSuchBucket": "is the bucket's name right, and its region or endpoint (AWS_ENDPOINT_URL)?",
    "403": CREDENTIALS,
    "401": CREDENTIALS,
    "412": "it was replaced at the same time; try again",
}


def is_no_object(error: BaseException) -> bool:
    """Return whether there is a bucket, but no such object in it."""
    return isinstance(error, FileNotFoundError) and "<Code>NoSuchBucket" not in str(error)


def is_beyond_end(error: BaseException) -> bool:
    """Return whether a range begins after the end of its object."""
    answer = ANSWER.search(str(error))
    return answer is not None and answer[1] == "416"


def problem_of(error: BaseException) -> tuple[str, str]:
    """Return what went wrong, and the cure."""
    text = str(error).partition("\n\nDebug source")[0]
    if any(place in text for place in NO_CREDENTIALS):
        return "no credentials were found", CREDENTIALS
    if "builder error" in text:
        return "http:// is not allowed", "expected https://, or AWS_ALLOW_HTTP=true"
    answer = ANSWER.search(text)
    if answer is None:
        cause = CAUSE.search(text)
        return (cause[1] if cause else text).strip(), OTHERWISE
    code, message = CODE.search(answer[2]), MESSAGE.search(answer[2])
    name = code[1] if code else answer[1]
    reason = f"{message[1].strip().rstrip('.')} ({name})" if message else f"it answered {name}"
    return reason, CURES.get(name) or CURES.get(answer[1]) or OTHERWISE
