package profiles

import (
	"errors"

	"github.com/droverhq/drover/internal/selector"
	"github.com/droverhq/drover/internal/strictyaml"
)

// placement reads an expression over facts and checks it. The names in it must be facts that Drover knows, but not
// every host needs to have them.
func placement(n strictyaml.Node, into *string) (err error) {
	if *into, err = n.String(); err != nil {
		return err
	}
	_, err = selector.Parse(*into)
	var m *selector.Mistake
	if errors.As(err, &m) {
		return n.WithinErrorf(m.At, "%s", m.Message)
	}
	return n.Wrap(err)
}
