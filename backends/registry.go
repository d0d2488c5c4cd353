package backends

import (
	"github.com/droverhq/drover/dataset"
)

// Registry is the list of backends that this program was built with. The program passes them to NewRegistry. No package
// registers itself.
type Registry struct {
	kinds []Kind
}

// NewRegistry returns a registry of these kinds. Their order is that of lists, and the order in which the adoption of a
// pool tries the backends. The default pool does not depend on the order: see agent/pool/default.go.
func NewRegistry(kinds ...Kind) *Registry { return &Registry{kinds} }

// Kinds returns the backends in the order in which they were passed to NewRegistry.
func (r *Registry) Kinds() []Kind { return r.kinds }

// Kind returns a backend by its name. ErrInvalid lists the existing backends.
func (r *Registry) Kind(name string) (Kind, error) {
	var names []string
	for _, k := range r.kinds {
		if k.Name() == name {
			return k, nil
		}
		names = append(names, k.Name())
	}
	return nil, dataset.Errorf(dataset.ErrInvalid, "unknown backend %q (available: %s)%s", dataset.Clip(name),
		dataset.FormatChoices(names), dataset.Suggestion(name, names))
}
