"""The numbered promises of docs/contract.md, word for word: what a check of this suite is a check of.

A test of the repository reads the page back against this table, so that neither changes alone.
"""

from collections.abc import Mapping

PROMISES: Mapping[str, str] = {
    "K-LOAD-01": "Importing the entry point needs no network, no credential and no cloud SDK.",
    "K-LOAD-02": (
        "The SDK is loaded by the first call that needs it and not before, and importing the plugin stays "
        "within its time budget."
    ),
    "K-LOAD-03": "The provider's name is its entry point's name, and its hook has the signature of the specification.",
    "K-LOAD-04": "A plugin that cannot be loaded is listed with its reason and harms no other.",
    "K-VER-01": "The declared contract range contains the version that the core speaks.",
    "K-CAP-01": "Capabilities are declared offline, without a call, and stay the same for the life of the process.",
    "K-CAP-02": "What the provider declares at run time equals what its package declares.",
    "K-CAP-03": "Every core capability of a filled slot is declared.",
    "K-CAP-04": "Calling an undeclared capability raises Unsupported with its id and changes nothing in the cloud.",
    "K-CAP-05": "A declared capability works.",
    "K-MOD-01": (
        "Every value of the contract survives the wire unchanged, with aware times, enums by value and "
        "unknown fields refused."
    ),
    "X-IDEM-01": "Creating twice with one token and one spec makes one thing and returns it both times.",
    "X-IDEM-02": "The same token with another spec raises Conflict(TOKEN_MISMATCH) and makes nothing.",
    "X-IDEM-03": (
        "Another token with a name that is taken raises AlreadyExists, and nothing is taken over unless the "
        "spec says adopt."
    ),
    "X-IDEM-04": (
        "A token whose thing is deleted raises Conflict(TOKEN_SPENT) or makes a live new thing, and never "
        "returns a dead one."
    ),
    "X-IDEM-05": "Deleting what is gone, or was never there, succeeds and says ALREADY_ABSENT.",
    "X-IDEM-06": (
        "Asking ten times for what is already so leaves the cloud as it was, and from the second time on "
        "nothing is written."
    ),
    "X-IDEM-07": "A token that a driver derives from ours is the same in every process and on every machine.",
    "X-IDEM-08": "The children of one create never share a token with each other or with their parent.",
    "X-AMB-01": (
        "A timeout after the cloud has acted, at any write of the call, is repaired by repeating the call "
        "with its token."
    ),
    "X-AMB-02": "So is a connection that breaks after the cloud has acted.",
    "X-AMB-03": "So is a server error that comes after the cloud has acted.",
    "X-AMB-04": "So is a crash of our own process before, between and after any of the writes.",
    "X-AMB-05": "After the repeat the cloud is as it would be without the fault, or holds nothing of the call.",
    "X-AMB-06": "An error whose effect is not known says so (`applied` is UNKNOWN) and may be repeated with the token.",
    "X-OWN-01": "The owner's tags are part of the call that makes the thing.",
    "X-OWN-02": "Things of another owner are never listed, changed or deleted, whatever their names.",
    "X-OWN-03": "What cannot carry a tag is tracked through its parent or by a documented rule for its name.",
    "X-OWN-04": (
        "What already exists is adopted only when the spec names it, is checked first, and is never deleted by us."
    ),
    "X-OWN-05": "The owner's tags outlive every change of the thing.",
    "X-OWN-06": "A user's tags cannot take the place of the reserved ones.",
    "X-LEAK-01": (
        "After a delete has ended, nothing that was made along with the thing is left: no disk, address, "
        "interface, rule, role or log group."
    ),
    "X-LEAK-02": "The same holds after every call that failed.",
    "X-LEAK-03": "Whatever is left can be named by kind, id, age and the call that made it.",
    "X-LEAK-04": "A delete that was cut short is finished by repeating it.",
    "X-LEAK-05": "A sweep of one owner removes all that is the owner's and nothing else.",
    "X-LEAK-06": "A sweep without an owner is refused.",
    "X-PART-01": (
        "A create that fails at its k-th step leaves either nothing or what a repeat with the token completes."
    ),
    "X-PART-02": "What was there before the call is spared by its clean-up.",
    "X-PART-03": "The first error is the one that is raised, and errors of the clean-up are notes on it.",
    "X-PART-04": "Clean-up goes by the ids that the call recorded, not by a list that may lag.",
    "X-PART-05": "Clean-up has a budget of its own after the call's deadline has passed.",
    "X-PART-06": "A batch returns one outcome per item, in order, and an error of one item is that item's outcome.",
    "X-ERR-01": "Every vendor code of the plugin's table becomes the category and reason that the table says.",
    "X-ERR-02": "Only errors of the tree leave a driver, never one of an SDK or of HTTP.",
    "X-ERR-03": "The vendor's code, status and request id are kept word for word.",
    "X-ERR-04": "A code that nobody knows becomes Unclassified and is never repeated by itself.",
    "X-ERR-05": "An error inside a successful answer, or at the end of a long operation, is raised.",
    "X-ERR-06": "What the error says of repeating agrees with its category.",
    "X-ERR-07": "A refused permission is never told as absence.",
    "X-ERR-08": "A failure while reading is never told as absence.",
    "X-RTY-01": (
        "A driver repeats nothing: the SDK's own retries are off, and the core repeats only what may be repeated."
    ),
    "X-RTY-02": "Retry-After, in seconds or as a date, is a lower bound for the next attempt.",
    "X-RTY-03": "The number of attempts on the wire is bounded, counted and told in the error.",
    "X-RTY-04": "Waits between attempts grow and are jittered.",
    "X-RTY-05": "A throttle of one scope does not stall another.",
    "X-RTY-06": "A stockout or a spent quota is reported with its scope and not repeated in place.",
    "X-RTY-07": "A throttled write is repeated only with its token.",
    "X-EC-01": "What was created is listed within the declared window.",
    "X-EC-02": "A list that lags never leads to a second thing.",
    "X-EC-03": "A name can be used again once its thing is gone.",
    "X-EC-04": "An old list brings nothing back to life and deletes nothing twice.",
    "X-EC-05": (
        "What has to be visible elsewhere before it can be used is Transient(PROPAGATION) until it is, within a bound."
    ),
    "X-PAGE-01": "A list is complete for nothing, one thing, a page less one, a page, a page and one, and three pages.",
    "X-PAGE-02": "Nothing is listed twice and nothing is missing.",
    "X-PAGE-03": "An error on any page is raised, and no part of a list is returned.",
    "X-PAGE-04": "A page token that has expired or repeats itself ends the call with an error, never in a loop.",
    "X-PAGE-05": "What is made or deleted between two pages does not hide anything else.",
    "X-PAGE-06": "A list of k pages costs at most k and one calls.",
    "X-PAGE-07": "An empty page in the middle is not the end.",
    "X-CON-01": "Many creates at once with one token make one thing.",
    "X-CON-02": "Many creates at once with tokens of their own do not disturb each other.",
    "X-CON-03": "A create and a delete at once end in a legal state.",
    "X-CON-04": "An update that would overwrite somebody else's raises Conflict(ETAG).",
    "X-CON-05": "One driver may be used from many threads.",
    "X-CON-06": "Two accounts or regions in one process share nothing.",
    "X-CON-07": (
        "A step that must not run twice at once is guarded by a lock that is held, refused and released properly."
    ),
    "X-CON-08": "Calls that run at once come out as they would one after another, in some order.",
    "X-SEQ-01": (
        "After every step of any sequence of calls, faults and crashes the cloud holds exactly what the calls so far "
        "have asked for."
    ),
    "X-SEQ-02": "The same holds when calls of all interfaces and of several owners come in any order.",
    "X-TIME-01": "No call outlives its deadline by more than one request.",
    "X-TIME-02": "A call that is broken off returns soon and leaves what a repeat can go on from.",
    "X-TIME-03": "The deadline reaches the request that the SDK makes.",
    "X-TIME-04": "No request is made without a timeout.",
    "X-TIME-05": "Every instant has a time zone.",
    "X-TIME-06": "A driver reads the time from its clock and from nowhere else.",
    "X-SEC-01": (
        "No secret is shown in a log at any level, an error, a repr, a plan, a report, a URL, a file that "
        "others can read or an argument of a process."
    ),
    "X-SEC-02": "What can only be written never comes back from a read.",
    "X-SEC-03": "Secrets are hidden by their type, not by a pattern.",
    "X-PRIV-01": "Every request maps to a permission that the driver declares.",
    "X-PRIV-02": "No declared permission is a wildcard.",
    "X-PRIV-03": "A permission that is declared and never used is reported.",
    "X-PRIV-04": (
        "Without a permission the call that needs it raises PermissionDenied, names it, and leaves nothing behind."
    ),
    "X-PRIV-05": "Reading needs permissions to read only.",
    "X-ISO-01": "Arguments are never changed.",
    "X-ISO-02": "There is no global state.",
    "X-ISO-03": "No environment variable and no home folder is read unless the plugin declares it.",
    "X-ISO-04": "No host is called but those that the plugin declares.",
    "P-01": "Equal inputs give equal plans, to the byte, in any process, locale or hash seed.",
    "P-02": "Planning writes nothing and calls nothing.",
    "P-03": "What is applied is what was planned, in its order and its count.",
    "P-04": "The plan of what is as it should be is empty.",
    "P-05": "A plan can be stored and loaded, and one that was made from an older state is refused.",
    "P-06": "A step that destroys something is marked as such.",
    "P-07": "A plan shows no secret.",
    "P-08": "A spec that needs what the cloud cannot do is refused before anything is made.",
    "C-CRE-01": "The smallest valid spec makes an instance.",
    "C-CRE-02": "Names of the greatest length, and long names that differ only at their ends, never collide.",
    "C-CRE-03": "A spec that cannot work is refused before the first write.",
    "C-CRE-04": "The instance that `create` returns equals the one that `get` returns.",
    "C-CRE-05": "An instance's id is stable, unique and enough to find it again.",
    "C-GET-01": "`get` of what is not there raises NotFound.",
    "C-GET-02": "`get` of what belongs to another owner raises NotFound.",
    "C-GET-03": "`get` of what is being deleted shows it as DELETING, and raises NotFound only when it is gone.",
    "C-GET-04": "An instance that exists and does not run is shown as STOPPED, not as gone.",
    "C-GET-05": "When several things match one name, Conflict(AMBIGUOUS) is raised and none is chosen.",
    "C-STA-01": "States move forward only: nothing is RUNNING before it runs, and what is gone stays gone.",
    "C-SCA-01": "A batch makes exactly the instances of its specs, however often it is repeated.",
    "C-SCA-02": "From none to some and back to none leaves nothing behind.",
    "C-SCA-03": "A batch that is met in part tells which items were not made and why.",
    "C-SCA-04": "At no moment are there more instances than specs.",
    "C-SCA-05": "`delete` takes the ids that it is given and no others.",
    "C-DEL-01": "Deleting twice ends as deleting once does.",
    "C-DEL-02": "`delete` returns at once, and says GONE only when nothing of the instance is left.",
    "C-DEL-03": "What is protected or in use raises Conflict(IN_USE) and stays whole.",
    "C-CAP-01": (
        "A stockout raises CapacityUnavailable with its scope, and no zone is tried that the spec does not name."
    ),
    "C-CAP-02": "A spent quota raises QuotaExceeded with metric, limit and use.",
    "C-CAP-03": "The catalogue lists what is sold also while it is not to be had.",
    "C-CAP-04": (
        "An instance that was accepted and will never run is shown as STOPPED, with the error that tells what there is none of."
    ),
    "C-SPOT-01": "An instance that the cloud takes back shows a notice while it still runs.",
    "C-QUI-01": "At rest nothing is written, and an hour costs a bounded number of reads.",
    "I-ROL-01": (
        "An identity has exactly the rights of its grants, and rights that are no longer granted are taken away."
    ),
    "I-ROL-02": "No grant gives more than it says.",
    "I-ROL-03": "An answer that says it exists already is a success when what exists is ours and equal.",
    "I-ROL-04": "An identity that is not visible everywhere yet is Transient(PROPAGATION), within the declared window.",
    "I-ROL-05": "Deleting an identity detaches its grants first and leaves none dangling.",
    "I-ROL-06": "Members that others put into a shared policy stay in it.",
    "I-TOK-01": "Credentials say when they expire and are renewed before that.",
    "I-TOK-02": "Expired or forged credentials raise Unauthenticated, not PermissionDenied.",
    "I-TOK-03": "A proof for another audience or another subject is refused.",
    "I-WHO-01": "`verify` names the account and the machine that the cloud itself would name.",
    "S-BKT-01": "A bucket's name that is taken is told apart: ours (OWNED) or somebody else's (FOREIGN).",
    "S-BKT-02": "A bucket with something in it is not deleted: Conflict(NOT_EMPTY).",
    "S-BKT-03": "What cannot be changed of a bucket, such as its region, is refused and never replaced in silence.",
    "S-OBJ-01": "Objects of no byte, one byte, and around the size of a part come back as they were put.",
    "S-OBJ-02": "Put-if-absent and put-if-unchanged let one of many writers win.",
    "S-OBJ-03": "A damaged transfer is noticed.",
    "S-OBJ-04": "A listing with a delimiter stops at it.",
    "S-OBJ-05": "Keys with blanks, other alphabets and double slashes work as declared.",
    "S-OBJ-06": "A listing is ordered and complete over many pages.",
    "S-OBJ-07": "An upload that was cut short leaves no parts that are paid for.",
    "S-OBJ-08": "Reading beyond the end of an object is told as such.",
    "S-OBJ-09": "Deleting an object that is not there succeeds.",
    "S-ACL-01": "Nothing is public from the first moment of a bucket on.",
    "S-GRT-01": "A grant that is revoked is gone, its objects and the other grants stay, and revoking it again succeeds.",
    "S-GRT-02": "A READ beside a WRITE of the same identity takes nothing from it.",
    "S-URL-01": "A signed URL is good for one method and one key, until it expires.",
    "N-NET-01": "Asking twice for a network gives one network.",
    "N-NET-02": "An address range that overlaps another raises Conflict before anything is written.",
    "N-NET-03": "A subnet without free addresses raises CapacityUnavailable(SUBNET_ADDRESSES).",
    "N-NET-04": (
        "A network is deleted in the order of its dependencies, and what lags behind is Conflict(BUSY), not a failure."
    ),
    "N-NET-05": "Changes to one parent that the cloud takes one by one are not lost when they come at once.",
    "N-NET-06": "Rules are exactly those that are wanted, and rules of others stay.",
    "N-NET-07": "Inbound traffic is denied unless it was asked for.",
    "N-NET-08": "A rule that is there already is a success.",
    "N-NET-09": "Addresses that were taken are given back.",
    "N-NET-10": "A name record of another owner is never changed or removed.",
    "N-NET-11": "An endpoint is READY only when its name resolves and it can be reached.",
    "N-NET-12": "A private network never gets a public address.",
    "N-NET-13": "`check` changes nothing, and whatever it finds amiss comes with its remedy.",
}
