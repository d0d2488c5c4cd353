package lease

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/pki"
	"github.com/droverhq/drover/internal/requestid"
)

// maxAnswer bounds an answer, in bytes.
const maxAnswer = 8 << 20

// Ask sends a promise request to a node's agent at an address, HOST:PORT, with this node's certificate. It fails with
// dataset.ErrOffline if there is no answer, or if another node answers: the address may belong to another node by
// now. After an error this node must assume that the asked node made no promise, although that node may have made one
// whose answer was lost. A repeated call renews the promise. Safe for concurrent use.
func Ask(ctx context.Context, rt http.RoundTripper, address string, node uuid.UUID, r Request) (out Answer, err error) {
	body, err := json.Marshal(r)
	if err != nil {
		return out, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+address+Path, bytes.NewReader(body))
	if err != nil {
		return out, err
	}
	req.Header.Set("Content-Type", "application/json")
	requestid.SetHeader(ctx, req.Header)
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return out, dataset.Errorf(dataset.ErrOffline, "promise of the node at %s: %w", address, err)
	}
	defer func() { _ = resp.Body.Close() }() // the body was read
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return out, dataset.Errorf(dataset.ErrOffline, "promise of the node at %s: %w", address, err)
	}
	if resp.TLS != nil { // the certificate identifies the node that answered, whatever the answer claims
		err = checkPeer(resp.TLS, node)
	}
	if err != nil {
		return out, dataset.Errorf(dataset.ErrOffline, "promise of the node at %s: %w", address, err)
	}
	if resp.StatusCode == http.StatusOK {
		err = json.Unmarshal(raw, &out)
	} else {
		var p dataset.Problem
		if json.Unmarshal(raw, &p) != nil || p.Code == "" {
			p = dataset.Problem{Code: dataset.ErrOffline.Code, Message: "status " + resp.Status}
		}
		err = p.Err()
	}
	if err != nil {
		return Answer{}, fmt.Errorf("promise of the node at %s: %w", address, err)
	}
	if out.Node != node {
		return Answer{}, dataset.Errorf(dataset.ErrOffline,
			"promise of the node at %s: this is node %s, not node %s", address, out.Node, node)
	}
	return out, nil
}

// checkPeer fails unless a verified connection is to a node.
func checkPeer(cs *tls.ConnectionState, node uuid.UUID) error {
	if len(cs.PeerCertificates) == 0 {
		return pki.ErrNoCertificate
	}
	id, err := pki.IdentityOf(cs.PeerCertificates[0])
	if err == nil && (id.Kind != pki.Node || id.Node != node) {
		err = fmt.Errorf("this is %s, not node %s", id, node)
	}
	return err
}
