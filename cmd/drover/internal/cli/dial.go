package cli

import (
	"strings"

	"github.com/droverhq/drover/control/api/client"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/pki"
)

// OpenClient returns a client of the server at an address. For https, the client presents a certificate.
func (a *App) OpenClient(endpoint string) (Remote, error) {
	c, err := a.open(endpoint)
	if err != nil {
		return nil, err
	}
	c.SetVersion(a.Version)
	c.OnKnownAt(a.noteKnownAt)
	return c, nil
}

func (a *App) open(endpoint string) (*client.Client, error) {
	if !strings.Contains(endpoint, "https://") {
		return client.New(endpoint)
	}
	var missing []string
	said := func(flag, value, env string) string {
		if value == "" {
			value = a.Getenv(env)
		}
		if value == "" {
			missing = append(missing, "--"+flag+" or "+env)
		}
		return value
	}
	files := pki.Files{
		Cert: said("cert", a.Files.Cert, "DROVER_CERT"), Key: said("key", a.Files.Key, "DROVER_KEY"),
		CA: said("ca", a.Files.CA, "DROVER_CA"),
	}
	if len(missing) > 0 {
		return nil, dataset.Errorf(dataset.ErrInvalid,
			"%s requires a certificate of the cluster: set %s (drover ca issue creates one on a control host)",
			dataset.Clip(endpoint), strings.Join(missing, ", "))
	}
	pair, err := pki.LoadPair(files)
	if err != nil {
		return nil, err
	}
	return client.NewTLS(endpoint, pki.NewCredentials(pair, clock.System{}, nil).Client(pki.Control))
}
