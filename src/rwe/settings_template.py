"""What `rwe init` writes into a new rwe.yaml: every setting with a comment."""

from __future__ import annotations

TEMPLATE = """\
# The settings of this workspace. Every field that is not here has its default.
version: 1

# The key that turns record ids into pseudonyms. It lies outside this folder and is never copied into it.
# Lose it, and the same patient gets another pseudonym on the next night: keep a copy where you keep secrets.
pseudonyms:
  key_file: {key_file}

# With a key, what is landed, the lake and the quarantine are encrypted at rest (docs/encryption.md).
# encryption:
#   key_file: /etc/rwe/encryption.key

# What researchers see, in published/rwe.duckdb (docs/privacy.md). Analyses read the private build instead: no
# estimate depends on these.
published:
  dates: exact              # anchored: a patient's first index event is moved to 2000-01-01, the rest with it
  min_cell: 5               # a text of a coded element shows only where so many patients share it
  top_code_age: null        # e.g. 89: older ages are shown as 89, and such birth dates not at all
  keep_builds: 3            # builds kept for `rwe rollback`
  # encryption:             # with a key, the published database is encrypted
  #   key_file: /etc/rwe/published.key

# For how many refreshes of a study it is kept who was in them, so that `rwe diff` can compare two.
history:
  keep_ledgers: 30

# `rwe release`: evidence leaves again only when so many patients and events are new (docs/history.md).
release:
  min_new_patients: 10
  min_new_events: 5

# Raw bytes that landed more than so many days ago are removed once they are in the lake; null: they are kept.
retain_raw_days: null

# made_up: of a sandbox's or of other made-up patients; evidence and reports then say so at the top.
patients: {patients}

# How much of a birth date enters the lake: day, month or year. Ages are computed from what is kept.
birth_date: day

# Cheap checks look at every resource. fhir.resources also checks: all (strict), a sample, or none (off).
validation: sample

# The number under which this work is approved (ethics committee, hospital). It stands in audit.ndjson beside
# whatever is done: extract, import, build, analyse, report. No number: null.
approval: null

# When things run by themselves, once `rwe deploy` has told Prefect (deploy/README.md). Cron of five fields.
schedule:
  nightly: "0 1 * * *"      # by the clock of each site
  reconcile: "0 3 * * 0"    # everything anew, so that what is gone is found; null: only by hand
  refresh: "0 7 * * *"      # by the clock of time_zone; waits for sites whose night is not over
  time_zone: UTC
  refresh_deadline_hours: 2 # so long; then it goes on with the sites that arrived
  time_budget_hours: 5      # after so long a site's night sends no further request
  stale_after_hours: 50     # an older complete night is told of
  # also: retries, retry_minutes, sites_at_once, moved_log, report_url, work_pool: {{name, kind}}
  # notify: {{webhook_file: /etc/rwe/webhook}}    # or webhook_env, or block: sendgrid-email/rwe

# Sums for a hub, where patients stay here (docs/federation.md). A hub's request changes none of it.
# federation:
#   min_new_patients: 10            # since every earlier refresh, before another is answered
#   min_new_events: 5
#   plain_sums: refused             # allowed: this site's own sums may leave unmasked
#   drop: {{url: "https://drop.example.org/study", token_file: /etc/rwe/drop.token}}

# One entry a hospital. Credentials never belong here. To use the example below, take the braces away and
# remove `# ` from its lines. A site that hands over files needs no base_url: `rwe import DIR --site NAME`
# adds it.
sites: {{}}
#
#   charite:
#     base_url: https://fhir.example.org/r4
#     time_zone: Europe/Berlin        # instants written in Z fall on the days of this zone
#     page_size: 200                  # resources asked for a page
#     patients_per_request: 20        # patients asked for at once
#     timeout_seconds: 60
#     max_retries: 6
#     allow_plain_http: "no"          # "loopback only" for a test server on this machine
#
#     # How the server knows us (docs/sites.md). Files are 0600; …_env names a variable instead.
#     auth: {{kind: smart, client_id: rwe, key_file: /etc/rwe/charite.pem, scopes: ["system/*.read"]}}
#     # also: next_key_file, kid, algorithm (RS384, ES384), token_url, audience
#     # auth: {{kind: bearer, token_file: /etc/rwe/token}}      # or token_env
#     # auth: {{kind: basic, user: rwe, password_file: /etc/rwe/password}}      # or password_env
#     token_origins: []               # other https origins that may get the credential
#     proxy: http://proxy.example.org:3128
#     ca_file: /etc/rwe/hospital-ca.pem         # authorities to trust, instead of the public ones
#     client_cert_file: /etc/rwe/client.pem     # with client_key_file
#     client_key_file: /etc/rwe/client.key
#
#     # How gently to ask.
#     max_requests_per_second: 5      # unset: no limit
#     max_concurrency: 4
#     quiet_hours: "07:00-19:00"      # by the site's clock; no request starts then
#     max_resources_per_type: 5000000 # more of one type stops the night
#
#     # What to ask, and which way. `rwe sites check` says what the server can do.
#     route: auto                     # search, export
#     export_level: auto              # group, patient, system
#     cohort: {{source: search}}        # {{source: group, id: car-t}}, {{source: patients, file: ids.txt}}
#     min_export_interval_hours: 24
#     export_deadline_hours: 12
#     overlap_minutes: 10             # how far behind the last night's watermark to ask again
#     reconcile_days: 7               # how often ids are compared to find deletions
#
#     # Who may enter.
#     consent: ignored                # required: only patients with a permitting, unexpired Consent
#     security_labels: {{exclude: [R, V, 42CFRPart2]}}        # HTEST never enters
#     opt_out_file: /etc/rwe/charite-opt-out.txt      # one Patient id of the server a line
#
#     schedule: {{nightly: "30 2 * * *"}}       # also: reconcile, time_budget_hours, stale_after_hours
#     code_map: charite-codes.csv     # local codes to standard ones, or a ConceptMap as JSON
#     permitted_texts: charite-texts.txt        # values of valueString that may enter the lake, one a line
#
#     # How a patient treated at two sites is recognised (docs/privacy.md). The same key at every site.
#     link: {{key_file: /etc/rwe/link.key, inputs: [family, given, birth_date, gender]}}
#     # also: inputs: [identifier] with identifier_system: http://example.org/insurance-number
"""
