package consul

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/hashicorp/consul/api"

	"github.com/droverhq/drover/control/store"
)

var _ store.HealthReporter = (*Store)(nil)

// maxHealthText bounds the answer with the state of Consul's servers, of which there are rarely more than seven.
const maxHealthText = 256 << 10

// Health asks Consul for its leader and its servers. Every server can report the leader, even a server that cannot
// reach the others. So Health distinguishes a lost quorum from an unreachable Consul. The state of the servers comes
// from Consul's autopilot. Only a token with operator:read may read it; without this right, Servers is nil. Safe for
// concurrent use.
func (e *endpoint) Health(ctx context.Context) store.Health {
	ctx, cancel := context.WithTimeout(ctx, store.HealthTime)
	defer cancel()
	var failed error
	for _, host := range e.transport.hosts {
		var leader string
		if _, err := e.transport.status(ctx, host, "v1/status/leader", &leader); err != nil {
			failed = err
			continue
		}
		if leader == "" {
			return store.Health{
				Problem: "Consul has no leader: most of its servers are down or cannot reach each other",
			}
		}
		h := store.Health{Leader: leader}
		h.Servers, h.FailureTolerance = e.servers(ctx, host)
		return h
	}
	return store.Health{Problem: fmt.Sprintf("Consul is unreachable: %v", failed)}
}

// servers returns the servers and how many of them can still fail. The list is nil if they cannot be read, for example
// because the token lacks the right.
func (e *endpoint) servers(ctx context.Context, host *url.URL) ([]store.Server, int) {
	var h api.OperatorHealthReply
	code, err := e.transport.status(ctx, host, "v1/operator/autopilot/health", &h)
	// Consul answers 429 if a server is unhealthy (website/content/api-docs/operator/autopilot.mdx).
	if err != nil || code != http.StatusOK && code != http.StatusTooManyRequests {
		return nil, 0
	}
	list := make([]store.Server, 0, len(h.Servers))
	for _, is := range h.Servers {
		contact := -1 * store.HealthTime
		if is.LastContact != nil {
			contact = is.LastContact.Duration()
		}
		list = append(list, store.Server{
			Name: is.Name, Address: is.Address, Healthy: is.Healthy, Leader: is.Leader, LastContact: contact,
		})
	}
	return list, h.FailureTolerance
}

// status decodes the answer of one server to a GET request. It is for paths whose answers have no index, because
// RoundTrip refuses such answers. It returns the code of the answer. out is set only for the codes 200 and 429.
func (f *transport) status(ctx context.Context, host *url.URL, path string, out any) (code int, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, host.JoinPath(path).String(), nil)
	if err != nil {
		return 0, err
	}
	if token := f.creds.current(); token != "" {
		req.Header.Set("X-Consul-Token", token)
	}
	res, err := f.base.RoundTrip(req)
	if err != nil {
		return 0, &reachError{host: host.String(), err: err}
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, maxHealthText))
	if err != nil {
		return 0, &reachError{host: host.String(), err: err}
	}
	if res.StatusCode != http.StatusOK && res.StatusCode != http.StatusTooManyRequests {
		return res.StatusCode, &statusError{host.String(), res.StatusCode, strings.TrimSpace(string(text))}
	}
	if err := json.Unmarshal(text, out); err != nil {
		return res.StatusCode, fmt.Errorf("%s: %s: %w", host, path, err)
	}
	return res.StatusCode, nil
}
