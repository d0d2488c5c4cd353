package cli

import (
	"errors"
	"fmt"
	"strings"

	"github.com/droverhq/drover/control/api"
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
	a.pair.Store(pair)
	return client.NewTLS(endpoint, pki.NewCredentials(pair, clock.System{}, nil).Client(pki.Control))
}

// CertificateFindings returns a finding if the certificate of the operator who runs the command expires soon or has
// expired. Servers do not know the certificates of operators before they are used.
func (a *App) CertificateFindings() []api.Finding {
	pair := a.pair.Load()
	if pair == nil || pair.Identity.Kind != pki.Operator { // the agent reports the certificate of its host
		return nil
	}
	leaf, now, id := pair.Chain[0], a.Now(), pair.Identity
	found := api.Finding{
		Level: "warning", Subject: "certificate",
		Text: fmt.Sprintf("your certificate, of %s, expires %s", id, When(now, leaf.NotAfter)),
		Fix: fmt.Sprintf("drover ca issue %s --role %s --out DIR on a control host, then use its files for "+
			"DROVER_CERT, DROVER_KEY and DROVER_CA", id.Name, id.Role),
	}
	switch {
	case now.After(leaf.NotAfter):
		found.Level = "error"
		found.Text = fmt.Sprintf("your certificate, of %s, expired %s: servers refuse it", id,
			When(now, leaf.NotAfter))
	case !now.After(pki.ReportAt(leaf)):
		return nil
	}
	return []api.Finding{found}
}

// IsExpiry reports whether an error follows from the finding that the certificate of the operator has expired.
func (a *App) IsExpiry(err error) bool {
	pair := a.pair.Load()
	return errors.Is(err, dataset.ErrForbidden) && pair != nil && len(a.CertificateFindings()) > 0 &&
		a.Now().After(pair.Chain[0].NotAfter)
}
