"""Synthetic hospitals with a known truth, served over real FHIR HTTP.

    from rwe.sandbox.options import Access, Bulk, Extras, Quirks
    from rwe.sandbox.server import HospitalSpec, running_hospitals

    spec = HospitalSpec("north", "a", patients=30, seed=5, bulk=Bulk(polls=2), access=Access(mode="smart", …),
                        quirks=Quirks(pairs_are_empty=True), extras=Extras(consents=True, labels=True))
    with running_hospitals([spec]) as [north]:
        north.base_url                      # http://127.0.0.1:PORT/fhir
        north.control                       # a rwe.sandbox.control.Control, for tests only:

    put(*resources)                         new, or a next version: versionId and lastUpdated are the server's
    delete(resource_type, resource_id)      read is 410 then; `_history` and `deleted` of an export list it
    mutate(seed) -> Night                   a realistic night of changes; the same seed makes the same changes
    while_paged(after_pages=3, seeds=[1,2]) mutate(seed) after each so many pages served, in this order
    nights_while_paged() -> list[Night]     those made so far
    advance(nights=1.0), skew(seconds)      the server's clock: lastUpdated, Date, transactionTime follow
    now() -> datetime                       by that clock
    revoke_tokens()                         every SMART token issued so far is 401 from now on
    register_keys(jwks)                     replaces the client's JWK Set (inline, JSON text)
    speak_as(base_url)                      links and the token endpoint lie there from now on (a proxy)
    expire_pages(), expire_exports()        next links / export files are gone from now on (410)
    state() -> {TYPE: {ID: resource}}       the current resources, as a read would serve them
    requests() -> list[Seen]                method, path, query, status, is_authorized; in order

All options and their defaults: rwe.sandbox.options. Without options: open, search only, `_history` offered.

Group `car-t-cohort` is there with `Extras(group=True)` or any `Bulk`; its members follow the records.
Export: kick-off GET or POST at BASE/$export, BASE/Patient/$export, BASE/Group/car-t-cohort/$export.
SMART: BASE/.well-known/smart-configuration; token endpoint ORIGIN/auth/token.
"""
