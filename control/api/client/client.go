// Package client sends requests to a server of the API: over HTTP, over a unix socket, or in this process. Agents use
// it to reach control on another host: cmd/drover/internal/daemon makes the client of an agent, and agent/controlsync
// the one with which a host joins. The command line (cmd/drover/internal/cli) uses it to reach control or an agent. In
// one process with control, an agent calls package control directly. Only tests, and the daemon in a build for tests,
// connect the two with package control/controltest/loopback.
//
// The only state of a Client is its connections and the index of the server that it asks first. Both are safe for
// concurrent use. A method makes a call of an endpoint (call.go). Retries, timeouts and the choice of a server are in
// connection.go and dial.go.
package client

import (
	"crypto/tls"
	"net/http"
	"strings"
	"time"

	"github.com/droverhq/drover/control/api"
)

// Client sends requests to a server of this API, or to one of several servers of the same cluster. The server has the
// same API version, and may be in this process. A Client is safe for concurrent use.
//
// If there are several servers, the client uses one of them as long as it answers. If that server cannot be reached,
// does not answer in time or reports that it is unavailable, the client sends the request to the next one and keeps
// using it. It does not repeat a request that is not idempotent if the first server may have carried it out. Each
// client puts the servers in a random order, so that the clients of a lost server spread over the others.
//
// An error that the server reports is returned with the same kind and text; only the server can report ErrNotFound.
// If the server cannot be reached, or the connection breaks, the error is ErrUnavailable. If the caller's context has
// ended, the error wraps that of the context instead, and has no kind.
type Client struct {
	Users
	Nodes
	Host
	Members
	conn *connection
}

// newClient returns a client that sends its calls over conn.
func newClient(conn *connection) *Client {
	return &Client{Users: Users{conn}, Nodes: Nodes{conn}, Host: Host{conn}, Members: Members{conn}, conn: conn}
}

// SetVersion sets the version of the program, which the client sends with each request and control compares with its
// own. It must not be called once the client is in use.
func (c *Client) SetVersion(version string) { c.conn.version = version }

// OnKnownAt sets a function that is called for each answer that an agent gave without control, with the time at which
// the agent last heard from control. It must not be called once the client is in use.
func (c *Client) OnKnownAt(f func(time.Time)) { c.conn.knownAt = f }

// SetObserver has f called after each call, with the method and path of its route, its error and its duration. It must
// not be called once the client is in use.
func (c *Client) SetObserver(f func(route string, err error, took time.Duration)) { c.conn.observe = f }

// Endpoint returns the address of the server that the client asks first at present.
func (c *Client) Endpoint() string { return c.conn.servers[c.conn.currentIndex()].endpoint }

// PerServer returns one client for each server. They share the connections of c and need no Close. They must not be
// used after c is closed. They do not call the function that was set with OnKnownAt.
func (c *Client) PerServer() []*Client {
	out := make([]*Client, len(c.conn.servers))
	for i, s := range c.conn.servers {
		out[i] = newClient(&connection{
			servers:  []remote{s},
			patience: c.conn.patience,
			close:    func() {},
			version:  c.conn.version,
			observe:  c.conn.observe,
		})
	}
	return out
}

// Close closes idle connections. For a loopback client it waits until the running handlers return. The client must
// not be used afterwards.
func (c *Client) Close() { c.conn.close() }

var (
	_ api.Service = (*Client)(nil)
	_ api.Local   = (*Client)(nil)
	_ api.Backup  = (*Client)(nil)
	_ api.Members = (*Client)(nil)
)

// Over returns a client that sends its requests through transport, in this process. Close calls end.
func Over(transport http.RoundTripper, end func()) *Client {
	return newClient(&connection{servers: []remote{{"http://drover", "this process", transport}}, close: end})
}

// New returns a client for the servers at unix:///PATH, http://HOST[:PORT] or https://HOST[:PORT], separated by
// commas. It does not connect. It fails with ErrInvalid for other addresses.
func New(endpoints string) (*Client, error) { return NewTLS(endpoints, nil) }

// NewTLS is New with the TLS configuration for https addresses.
func NewTLS(endpoints string, t *tls.Config) (*Client, error) {
	conn := &connection{}
	var transports []*http.Transport
	for endpoint := range strings.SplitSeq(endpoints, ",") {
		s, transport, err := dial(strings.TrimSpace(endpoint), t)
		if err != nil {
			return nil, err
		}
		conn.servers, transports = append(conn.servers, s), append(transports, transport)
	}
	if len(conn.servers) > 1 {
		conn.patience = answerTime
		shuffle(conn.servers)
	}
	conn.close = func() {
		for _, t := range transports {
			t.CloseIdleConnections()
		}
	}
	return newClient(conn), nil
}
