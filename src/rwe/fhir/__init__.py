"""The network, and nothing else: how a FHIR server is asked, paged and retried."""
