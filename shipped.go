// Package drover embeds profiles.yaml, the profiles that Drover ships. Package cmd/drover/internal/settings uses them
// if the operator has no profiles file. The file is in the root folder of the repository, because people look for it
// there. So the package is there too: go:embed cannot embed a file from a folder above its own. The package keeps no
// state, and nothing changes Profiles.
package drover

import _ "embed"

// Profiles is the text of profiles.yaml.
//
//go:embed profiles.yaml
var Profiles []byte
