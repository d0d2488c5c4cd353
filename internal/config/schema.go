package config

import _ "embed"

// Schema is the JSON schema of drover.yaml, for editors and for the reference page.
//
//go:embed drover.schema.json
var Schema []byte
