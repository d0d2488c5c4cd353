// Package member makes a host a member of a cluster, and keeps it one: it joins with a
// token, renews the certificate, and hears which roots and certificates are good.
package member

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

// Joining is how a host asks to be let in.
type Joining struct {
	Dir      string // of the certificate; made when it is not there
	Replicas []string
	Token    string
	Name     string    // what the node is to be called, unless the token says
	Node     uuid.UUID // what the host has been so far; nil: nothing
	Clock    clock.Clock
}

// requestFile keeps the request until its answer is in place, so that a host that is cut
// short asks for the same again: a token is good for one request.
const requestFile = "join.pem"

// Join lets this host in and puts the certificate in place, by one of the replicas. A
// host that has a certificate of the cluster which is good stays what it is, and its token
// unused. Safe to repeat after a crash. ErrForbidden when the token, or the control that
// answers, is not believed; ErrUnavailable when none answers.
func Join(ctx context.Context, j Joining) (*pki.Pair, error) {
	token, err := pki.ParseToken(j.Token)
	if err != nil {
		return nil, err
	}
	files := pki.NodeFiles(j.Dir)
	old, err := pki.LoadPair(files)
	switch {
	case err == nil && pki.NewCredentials(old, j.Clock, nil).Good() == nil:
		return old, forgetRequest(j.Dir)
	case err == nil && j.Node == uuid.Nil:
		j.Node = old.Identity.Node
	case err != nil && !errors.Is(err, dataset.ErrNotFound) && !errors.Is(err, dataset.ErrCorrupt):
		return nil, err
	}
	if err := os.MkdirAll(j.Dir, 0o700); err != nil {
		return nil, err
	}
	req, err := pending(filepath.Join(j.Dir, requestFile))
	if err != nil {
		return nil, err
	}
	cluster := uuid.Nil
	if old != nil {
		cluster = old.Identity.Cluster
	}
	pair, err := j.ask(ctx, token, cluster, req)
	if err != nil {
		return nil, err
	}
	if err := pair.Save(files); err != nil {
		return nil, fmt.Errorf("write the certificate: %w", err)
	}
	return pair, forgetRequest(j.Dir)
}

// forgetRequest removes the request whose answer is in place: its key is the node's.
func forgetRequest(dir string) error {
	err := os.Remove(filepath.Join(dir, requestFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return errors.Join(err, durable.SyncDir(dir))
}

// pending is the request that was begun, or a new one.
func pending(path string) (*pki.Request, error) {
	req, err := pki.LoadRequest(path)
	if err == nil || !errors.Is(err, dataset.ErrNotFound) && !errors.Is(err, dataset.ErrCorrupt) {
		return req, err
	}
	if req, err = pki.NewRequest(); err != nil {
		return nil, err
	}
	return req, req.Save(path)
}

// ask uses the token up, in that cluster alone, unless it is nil.
func (j Joining) ask(ctx context.Context, token pki.Token, cluster uuid.UUID, req *pki.Request) (*pki.Pair, error) {
	c, err := client.NewTLS("https://"+strings.Join(j.Replicas, ",https://"), pki.Pinned(token.CA, cluster, j.Clock))
	if err != nil {
		return nil, err
	}
	defer c.Close()
	joined, err := c.Join(ctx, api.Join{Token: j.Token, Request: req.PEM, Name: j.Name, Node: j.Node})
	if err != nil {
		return nil, fmt.Errorf("join: %w", err)
	}
	pair, err := req.Pair(joined.Certificate)
	if err == nil && (pair.Identity.Kind != pki.Node || pair.Identity.Node != joined.Node) {
		err = dataset.Errorf(dataset.ErrCorrupt, "certificate from control: it is that of %s, and not of node %s",
			pair.Identity, joined.Node)
	}
	if err == nil {
		err = pki.NewCredentials(pair, j.Clock, nil).Good()
	}
	if err != nil {
		return nil, fmt.Errorf("join: %w", err)
	}
	return pair, nil
}
