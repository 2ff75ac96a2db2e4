"""K: the plugin itself, before it is asked for anything."""

from anyscale_conformance.context import Context
from anyscale_conformance.refusals import verify_refusal
from anyscale_conformance.rules import check


@check("K-CAP-04")
def undeclared_is_refused(ctx: Context) -> None:
    """Asks for each capability that is not declared; wants Unsupported with its id and no write at all."""
    verify_refusal(ctx, ctx.subject_name)
