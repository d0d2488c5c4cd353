// Package client asks a server of the API: over HTTP, over a unix socket, or in this process.
package client

import (
	"crypto/tls"
	"net/http"
	"strings"

	"github.com/droverhq/drover/control/api"
)

// Client asks a server of this API, or one of several that serve the same cluster. The server has the same version
// and may be in this process. A Client is safe for concurrent use.
//
// Of several servers the client keeps using one as long as it answers. If that server cannot be reached, does not
// answer in time or reports that it is unavailable, the client sends the request to the next one and keeps using
// it. It does not send a request a second time if the first server may have carried it out and the request is not
// idempotent. Each client has the servers in a random order, so that the clients of a lost server spread over the
// others.
//
// An error that the server reports is returned with the same kind and text; only the server can report ErrNotFound.
// If the server cannot be reached, or the connection breaks, the error is ErrUnavailable. errors.Is finds the error
// of the caller's context.
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

// Endpoint returns the address of the server that the client asks first at present.
func (c *Client) Endpoint() string { return c.conn.servers[c.conn.currentIndex()].endpoint }

// Apart returns one client for each server. They share the connections of c, must not be used after c is closed, and
// need no Close.
func (c *Client) Apart() []*Client {
	out := make([]*Client, len(c.conn.servers))
	for i, s := range c.conn.servers {
		out[i] = newClient(&connection{
			servers:  []remote{s},
			patience: c.conn.patience,
			close:    func() {},
			version:  c.conn.version,
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

// New returns a client for the servers at unix:///PATH, http://HOST[:PORT] or https://HOST[:PORT], separated by
// commas. It does not connect. ErrInvalid for other addresses.
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
