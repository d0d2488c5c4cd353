// Package drover holds the profiles that Drover ships: the file lies at the root
// of the repository, where people look for it, and go:embed reaches no higher
// than its own folder.
package drover

import _ "embed"

// Profiles is the text of profiles.yaml: the set that is used where the operator
// has none.
//
//go:embed profiles.yaml
var Profiles []byte
