package controlsync

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/client"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/durable"
	"github.com/droverhq/drover/internal/pki"
)

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
// Unless cluster is uuid.Nil, only a control of that cluster is accepted.
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
