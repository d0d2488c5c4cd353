package profiles

import _ "embed"

// Schema is the JSON schema of profiles.yaml, for editors and for the reference page.
//
//go:embed profiles.schema.json
var Schema []byte
