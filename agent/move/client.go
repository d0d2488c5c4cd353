package move

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/pki"
	"github.com/droverhq/drover/internal/requestid"
)

// Client sends requests to other nodes' agents. Set its fields before the first use. Safe for concurrent use.
type Client struct {
	HTTP  http.RoundTripper // uses this node's certificate
	Limit *Limiter          // if nil, there is no limit
	Clock clock.Clock
	Log   logrus.FieldLogger
	// Idle is how long a peer may send nothing before the client ends the request. If 0, it is DefaultIdle.
	Idle time.Duration
	// Tries is how often in a row a transfer may be interrupted without any progress. If 0, it is DefaultTries.
	Tries int
}

// DefaultTries is the default of Client.Tries. If a peer is unreachable, this number of attempts takes about half a
// minute.
const DefaultTries = 10

func (c *Client) tries() int {
	return cmp.Or(c.Tries, DefaultTries)
}

// errIdle is the reason for ending a request that the peer does not answer.
var errIdle = errors.New("the peer sent no data for too long")

// maxReply bounds an answer that is not a stream, in bytes.
const maxReply = 64 << 20

// Plan compares the snapshots of a copy with those of a dataset at a peer (HTTPS address and port). It returns the
// missing snapshots in order, and the bytes to transfer. want is an additional transfer snapshot, or uuid.Nil. also has
// further parameters of the query: see pullRun.extraQuery.
func (c *Client) Plan(ctx context.Context, peer string, ds uuid.UUID, have []uuid.UUID, want uuid.UUID,
	also url.Values) (out Plan, err error) {
	q := haveQuery(have)
	if want != uuid.Nil {
		q.Set("want", want.String())
	}
	maps.Copy(q, also)
	err = c.doJSON(ctx, http.MethodGet, address(peer, ds, q), &out)
	if err != nil {
		err = fmt.Errorf("snapshots of dataset %s at %s: %w", ds, peer, finalError(err))
	}
	return out, err
}

// haveQuery encodes which snapshots this node has.
func haveQuery(have []uuid.UUID) url.Values {
	q := url.Values{}
	if len(have) > 0 {
		texts := make([]string, len(have))
		for i, id := range have {
			texts[i] = id.String()
		}
		q.Set("have", strings.Join(texts, ","))
	}
	return q
}

// RequestSnapshot has the home take a transfer snapshot of a dataset as it is now. The home keeps the newest of the
// snapshots that this node has, because the next difference is based on it.
func (c *Client) RequestSnapshot(ctx context.Context, peer string, ds uuid.UUID,
	have []uuid.UUID) (out TakenSnapshot, err error) {
	err = c.doJSON(ctx, http.MethodPost, address(peer, ds, haveQuery(have), "freshen"), &out)
	if err == nil && (out.Dataset != ds || out.ID == uuid.Nil) {
		err = dataset.Errorf(dataset.ErrCorrupt, "it responded with snapshot %s of dataset %s", out.ID, out.Dataset)
	}
	if err != nil {
		err = fmt.Errorf("transfer snapshot of dataset %s at %s: %w", ds, peer, finalError(err))
	}
	return out, err
}

// address is the URL for requests about a dataset.
func address(peer string, ds uuid.UUID, q url.Values, rest ...string) string {
	out := strings.TrimSuffix(peer, "/") + Prefix + "datasets/" +
		strings.Join(append([]string{ds.String()}, rest...), "/")
	if len(q) > 0 {
		out += "?" + q.Encode()
	}
	return out
}

// doJSON sends a request and decodes a JSON answer.
func (c *Client) doJSON(ctx context.Context, method, where string, into any) error {
	body, err := c.open(ctx, method, where)
	if err != nil {
		return err
	}
	defer body.Close()
	raw, err := io.ReadAll(io.LimitReader(body, maxReply+1))
	switch {
	case err != nil:
		return dataset.Errorf(dataset.ErrOffline, "%w", err)
	case len(raw) > maxReply:
		return fmt.Errorf("%w: a response of more than %d bytes", errFrame, maxReply)
	}
	if err := dataset.DecodeRecord(raw, into); err != nil {
		return fmt.Errorf("%w: a response that cannot be read: %v", errFrame, err)
	}
	return nil
}

// open sends a request and returns the body of the answer. Reading it fails with errIdle if the peer sends nothing
// for too long. If the peer cannot be reached, open fails with dataset.ErrOffline.
func (c *Client) open(ctx context.Context, method, where string) (io.ReadCloser, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	body := &idleReader{idle: cmp.Or(c.Idle, DefaultIdle), ctx: ctx, cancel: cancel}
	body.wait = time.AfterFunc(body.idle, func() { cancel(errIdle) })
	req, err := http.NewRequestWithContext(ctx, method, where, nil)
	if err != nil {
		cancel(nil)
		return nil, dataset.Errorf(dataset.ErrInvalid, "%w", err)
	}
	req.Header.Set(framesHeader, strconv.Itoa(framesVersion))
	requestid.SetHeader(ctx, req.Header)
	resp, err := c.HTTP.RoundTrip(req) //nolint:bodyclose // idleReader.Close closes it
	body.wait.Stop()
	if err != nil {
		err = body.explain(err)
		cancel(nil)
		return nil, dataset.Errorf(dataset.ErrOffline, "%w", err)
	}
	body.from = resp.Body
	if resp.StatusCode == http.StatusOK {
		if err := checkFrames(resp.Header); err != nil {
			return nil, errors.Join(err, body.Close())
		}
		return body, nil
	}
	defer body.Close()
	return nil, problemOf(resp.StatusCode, body)
}

// maxProblem bounds how much of a problem is read, in bytes.
const maxProblem = 64 << 10

func problemOf(status int, body io.Reader) error {
	var p dataset.Problem
	raw, err := io.ReadAll(io.LimitReader(body, maxProblem))
	if err == nil {
		err = json.Unmarshal(raw, &p)
	}
	if err != nil || p.Code == "" {
		return dataset.Errorf(dataset.ErrOffline, "the peer responded with status %d", status)
	}
	p.Message = dataset.Cut(p.Message)
	return &peerError{p}
}

// idleReader reads an answer. It fails with errIdle if the peer sends nothing for too long.
type idleReader struct {
	from   io.ReadCloser
	idle   time.Duration
	wait   *time.Timer
	ctx    context.Context
	cancel context.CancelCauseFunc
}

func (p *idleReader) Read(b []byte) (int, error) {
	p.wait.Reset(p.idle)
	n, err := p.from.Read(b)
	p.wait.Stop()
	if err != nil && !errors.Is(err, io.EOF) {
		err = p.explain(err)
	}
	return n, err
}

// explain returns why the client ended a request.
func (p *idleReader) explain(err error) error {
	if cause := context.Cause(p.ctx); cause != nil {
		return cause
	}
	return err
}

func (p *idleReader) Close() error {
	p.wait.Stop()
	p.cancel(nil)
	return p.from.Close()
}

// requesterKey is the key of the node that sends a request, in the request's context.
type requesterKey struct{}

// requester returns the node that sent the request of a context, or uuid.Nil if it is not known.
func requester(ctx context.Context) uuid.UUID {
	id, _ := ctx.Value(requesterKey{}).(uuid.UUID)
	return id
}

// WithRequester returns a context for a request that a node has sent.
func WithRequester(ctx context.Context, node uuid.UUID) context.Context {
	return context.WithValue(ctx, requesterKey{}, node)
}

// CertifiedNode returns the node that a client's certificate names.
func CertifiedNode(r *http.Request) (uuid.UUID, error) {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return uuid.Nil, pki.ErrNoCertificate
	}
	id, err := pki.IdentityOf(r.TLS.PeerCertificates[0])
	if err == nil && id.Kind != pki.Node {
		err = dataset.Errorf(dataset.ErrForbidden, "the certificate is for %s, and only nodes may send this "+
			"request", id)
	}
	return id.Node, err
}
