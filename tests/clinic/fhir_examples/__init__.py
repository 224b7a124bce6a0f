"""FHIR documents of invented patients, in the form that Synthea and the specification's examples have."""
