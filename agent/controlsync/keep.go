package controlsync

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/client"
	"github.com/droverhq/drover/control/condition"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/durable"
	"github.com/droverhq/drover/internal/pki"
)

// Control is the part of control's API that a Member uses. *client.Client implements it.
type Control interface {
	Trust(ctx context.Context) (api.Trust, error)
	Certify(ctx context.Context, node uuid.UUID, r api.Certification) (pki.Signed, error)
}

// Member keeps a host's certificate valid. Its methods are safe for concurrent use, but only one goroutine may call
// Keep or Check.
type Member struct {
	files       pki.Files
	clock       clock.Clock
	credentials *pki.Credentials
	revoked     atomic.Pointer[[]api.Revoked]
}

// Open returns the Member of a host that has joined a cluster. It fails with ErrNotFound if the host has not joined,
// and with ErrCorrupt if the certificate cannot be read.
func Open(dir string, clk clock.Clock) (*Member, error) {
	m := &Member{files: pki.NodeFiles(dir), clock: clk}
	pair, err := pki.LoadPair(m.files)
	if dataset.KindOf(err) == dataset.ErrNotFound {
		return nil, dataset.Errorf(dataset.ErrNotFound,
			"this host has not joined a cluster: create a token on a control host (drover node token), and start "+
				"the agent with --join @FILE (%w)", err)
	}
	if err == nil && pair.Identity.Kind != pki.Node {
		err = dataset.Errorf(dataset.ErrCorrupt, "%s: expected the certificate of a node, not of %s", m.files.Cert,
			pair.Identity)
	}
	if err != nil {
		return nil, err
	}
	// A crash can leave the request of a join whose certificate is written.
	if req, err := pki.LoadRequest(filepath.Join(dir, requestFile)); err == nil && req.IsFor(pair) {
		if err := forgetRequest(dir); err != nil {
			return nil, err
		}
	}
	m.credentials = pki.NewCredentials(pair, clk, m.checkRevoked)
	return m, nil
}

// Credentials returns the credentials of this host, for connections to control and to peers.
func (m *Member) Credentials() *pki.Credentials { return m.credentials }

// Identity returns the cluster and the node of this host's certificate.
func (m *Member) Identity() pki.Identity { return m.credentials.Pair().Identity }

// checkRevoked fails with ErrForbidden for a node that control reported as removed from the cluster.
func (m *Member) checkRevoked(id pki.Identity, _ *x509.Certificate) error {
	list := m.revoked.Load()
	if list == nil || id.Kind != pki.Node {
		return nil
	}
	for _, r := range *list {
		if r.Node == id.Node {
			return dataset.Errorf(dataset.ErrForbidden, "%s was removed from the cluster at %s", id,
				r.At.Format(time.RFC3339))
		}
	}
	return nil
}

const (
	checkEvery  = time.Minute
	reportPause = time.Hour // between two reports of the same failure
)

// Keep asks control every minute which root certificates are valid and which nodes were removed, until ctx ends. It
// renews the certificate when a third of its life is left, or when the cluster's authority has another root.
//
// It calls failed with each failure. It reports the same failure at most once an hour, even if failures alternate. An
// unreachable control is reported as a failure only if the certificate ends soon.
func (m *Member) Keep(ctx context.Context, control Control, failed func(error)) {
	reportedAt := map[string]time.Duration{} // when each failure was last reported
	for {
		err := m.Check(ctx, control)
		now := m.clock.Steady()
		if err != nil && ctx.Err() == nil && m.shouldReport(err) {
			maps.DeleteFunc(reportedAt, func(_ string, at time.Duration) bool { return now-at >= reportPause })
			if _, ok := reportedAt[err.Error()]; !ok {
				reportedAt[err.Error()] = now
				failed(err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-m.clock.After(checkEvery):
		}
	}
}

// shouldReport reports whether Keep reports a failure. Other components report an unreachable control. So
// shouldReport returns true for an unreachable control only in the second half of the time between the date of
// renewal and the end of the certificate.
func (m *Member) shouldReport(err error) bool {
	return dataset.KindOf(err) != dataset.ErrUnavailable ||
		m.clock.Now().After(pki.ReportAt(m.credentials.Pair().Chain[0]))
}

// Findings adds an error if the certificate of this host has expired, and a warning if it expires soon because it could
// not be renewed.
func (m *Member) Findings(list *condition.List) {
	leaf, now := m.credentials.Pair().Chain[0], m.clock.Now()
	end := leaf.NotAfter.Format(time.RFC3339)
	switch {
	case now.After(leaf.NotAfter):
		list.Add(condition.CertificateExpired, "certificate", "", end)
	case now.After(pki.ReportAt(leaf)):
		list.Add(condition.CertificateExpires, "certificate", "", end)
	}
}

// Check asks control once, and renews the certificate if that is due: see Keep.
func (m *Member) Check(ctx context.Context, control Control) error {
	trust, err := control.Trust(ctx)
	if err != nil {
		return fmt.Errorf("trusted certificates: %w", err)
	}
	m.revoked.Store(&trust.Revoked)
	pair := m.credentials.Pair()
	if trust.Cluster != pair.Identity.Cluster {
		return dataset.Errorf(dataset.ErrCorrupt,
			"control belongs to cluster %s, and this host to cluster %s", trust.Cluster,
			pair.Identity.Cluster)
	}
	next, changed, err := pair.WithRoots(trust.Roots)
	if err != nil {
		return err
	}
	if !m.clock.Now().Before(pki.RenewAt(next.Chain[0])) || !next.IsOfNewestRoot() {
		if next, err = renew(ctx, control, next.Identity); err != nil {
			return fmt.Errorf("renew the certificate, which expires at %s: %w",
				pair.Chain[0].NotAfter.Format(time.RFC3339), err)
		}
		changed = true
	}
	if !changed {
		return nil
	}
	if err := pki.NewCredentials(next, m.clock, nil).CheckPair(); err != nil {
		return fmt.Errorf("the certificate from control cannot be used: %w", err)
	}
	if err := next.Save(m.files); err != nil {
		return fmt.Errorf("write the certificate: %w", err)
	}
	m.credentials.Set(next)
	return nil
}

func renew(ctx context.Context, control Control, id pki.Identity) (*pki.Pair, error) {
	req, err := pki.NewRequest()
	if err != nil {
		return nil, err
	}
	signed, err := control.Certify(ctx, id.Node, api.Certification{CSR: req.PEM})
	if err != nil {
		return nil, err
	}
	next, err := req.Pair(signed)
	if err != nil {
		return nil, err
	}
	if next.Identity.Node != id.Node || next.Identity.Cluster != id.Cluster || next.Identity.Kind != id.Kind {
		return nil, dataset.Errorf(dataset.ErrCorrupt, "control sent the certificate of %s to %s", next.Identity, id)
	}
	return next, nil
}

// JoinRequest is the request of a host to join a cluster.
type JoinRequest struct {
	Dir      string    // directory of the certificate; it is made if it does not exist
	Replicas []string  // addresses of control, HOST:PORT
	Token    string    // the token of drover node token
	Name     string    // name of the node, unless the token determines it
	Node     uuid.UUID // the UUID that this host had as a node before, or uuid.Nil
	Clock    clock.Clock
}

// requestFile is the name of the file with the request of a join. The file exists until the certificate is written, so
// that a host which crashes in between sends the same request again: a token is valid for one request.
const requestFile = "join.pem"

// Join makes this host a member of the cluster of the token, through any of the replicas, and writes the certificate to
// j.Dir. If the host already has a valid certificate, of whatever cluster, Join keeps it and does not use the token. If
// the host has a certificate that is not valid any more, the token must be of the same cluster. Join can be repeated
// after a crash.
//
// It fails with ErrForbidden if the token is refused or if the control that answers is not the one of the token. It
// fails with ErrUnavailable if no replica answers.
func Join(ctx context.Context, j JoinRequest) (*pki.Pair, error) {
	token, err := pki.ParseToken(j.Token)
	if err != nil {
		return nil, err
	}
	files := pki.NodeFiles(j.Dir)
	old, err := pki.LoadPair(files)
	switch {
	case err == nil && pki.NewCredentials(old, j.Clock, nil).CheckPair() == nil:
		return old, forgetRequest(j.Dir)
	case err == nil && j.Node == uuid.Nil:
		j.Node = old.Identity.Node
	case err != nil && !errors.Is(err, dataset.ErrNotFound) && !errors.Is(err, dataset.ErrCorrupt):
		return nil, err
	}
	if err := os.MkdirAll(j.Dir, 0o700); err != nil {
		return nil, err
	}
	req, err := pendingRequest(filepath.Join(j.Dir, requestFile))
	if err != nil {
		return nil, err
	}
	cluster := uuid.Nil
	if old != nil {
		cluster = old.Identity.Cluster
	}
	pair, err := j.requestCertificate(ctx, token, cluster, req)
	if err != nil {
		return nil, err
	}
	if err := pair.Save(files); err != nil {
		return nil, fmt.Errorf("write the certificate: %w", err)
	}
	return pair, forgetRequest(j.Dir)
}

// forgetRequest removes the request of a join whose certificate is written. The key in the request is the node's key.
func forgetRequest(dir string) error {
	err := os.Remove(filepath.Join(dir, requestFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return errors.Join(err, durable.SyncDir(dir))
}

// pendingRequest returns the stored request of an unfinished join, or stores a new one.
func pendingRequest(path string) (*pki.Request, error) {
	req, err := pki.LoadRequest(path)
	if err == nil || !errors.Is(err, dataset.ErrNotFound) && !errors.Is(err, dataset.ErrCorrupt) {
		return req, err
	}
	if req, err = pki.NewRequest(); err != nil {
		return nil, err
	}
	return req, req.Save(path)
}

// requestCertificate sends the request to control, which uses up the token, and returns the checked certificate.
// If cluster is not uuid.Nil, the control must be of that cluster.
func (j JoinRequest) requestCertificate(ctx context.Context, token pki.Token, cluster uuid.UUID,
	req *pki.Request) (*pki.Pair, error) {
	c, err := client.NewTLS("https://"+strings.Join(j.Replicas, ",https://"), pki.Pinned(token.CA, cluster, j.Clock))
	if err != nil {
		return nil, err
	}
	defer c.Close()
	joined, err := c.Join(ctx, api.Join{Token: j.Token, CSR: req.PEM, Name: j.Name, Node: j.Node})
	if err != nil {
		return nil, fmt.Errorf("join: %w", err)
	}
	pair, err := req.Pair(joined.Certificate)
	if err == nil && (pair.Identity.Kind != pki.Node || pair.Identity.Node != joined.Node) {
		err = dataset.Errorf(dataset.ErrCorrupt, "certificate from control: it is for %s, not for node %s",
			pair.Identity, joined.Node)
	}
	if err == nil {
		err = pki.NewCredentials(pair, j.Clock, nil).CheckPair()
	}
	if err != nil {
		return nil, fmt.Errorf("join: %w", err)
	}
	return pair, nil
}
