package api

import (
	"context"
	"net/http"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/pki"
)

// Members is who belongs to the cluster: control's side of joining, of certificates
// and of leaving. *Client implements it too. All methods are safe for concurrent use.
type Members interface {
	// MakeToken makes a token by which one host joins once. One with the name of a
	// node that is there lets that one come back, with a new certificate.
	MakeToken(ctx context.Context, t NewToken) (JoinToken, error)
	// Join lets a host in. Asked again with the same token and request: the same.
	Join(ctx context.Context, j Join) (Joined, error)
	// Certify gives a node another certificate.
	Certify(ctx context.Context, node uuid.UUID, r Certification) (pki.Signed, error)
	// Trust is what members believe at this time.
	Trust(ctx context.Context) (Trust, error)
	// RemoveNode lets a node, by name or a prefix of its UUID, go for good. ErrInUse
	// while datasets have their home there, or it keeps what nobody else has; with force
	// its certificate is worth nothing from then on, what it keeps is forgotten, and it
	// stays on record until they have another home, and while it may have volumes mounted of
	// which others are the home, until a person vouches that it writes no more.
	RemoveNode(ctx context.Context, ref string, force bool) (Removed, error)
	// RevokeOperator makes every certificate of that name worth nothing that was made
	// so far, or within ten minutes, by which clocks may differ.
	RevokeOperator(ctx context.Context, name string) error
	// Recover says how a store that went back differs from what agents hold or, with the
	// digest of that, has it brought up to date. ErrConflict when it is another by then,
	// or takes a person's word. Cut short, it is asked for again.
	Recover(ctx context.Context, r Recover) (Recovery, error)
}

// NewToken asks for a join token.
type NewToken struct {
	Name string `json:"name,omitempty" doc:"the only name that the node can have; of a node that is there: it comes back"`
	TTL  string `json:"ttl,omitempty" doc:"how long it can be used: 1h when left out, 168h at most" example:"1h"`
}

// JoinToken lets one host join.
type JoinToken struct {
	Token   string    `json:"token" doc:"a secret, said this once"`
	ID      string    `json:"id" doc:"the first digits of what is kept of it"`
	Name    string    `json:"name,omitempty"` // the only name that the joining node can have; empty: any
	Node    uuid.UUID `json:"node,omitzero" doc:"of the node that comes back with it"`
	Expires time.Time `json:"expires"` // when the token stops being valid
}

// Join is how a host asks to be let in.
type Join struct {
	Token   string    `json:"token" maxLength:"256"` // the join token, as it was printed when it was made
	Request string    `json:"request" maxLength:"16384" doc:"PKCS #10, as PEM"`
	Name    string    `json:"name" maxLength:"64" doc:"what the node is to be called"`
	Node    uuid.UUID `json:"node,omitzero" doc:"what the host has been so far"`
}

// Joined is what a host has become.
type Joined struct {
	Node        uuid.UUID  `json:"node"`        // UUID of the node in the cluster
	Name        string     `json:"name"`        // name of the node in the cluster
	Certificate pki.Signed `json:"certificate"` // the certificate of the node
}

// Certification asks for a certificate.
type Certification struct {
	Request string `json:"request" maxLength:"16384" doc:"PKCS #10, as PEM"`
}

// Trust is what members believe.
type Trust struct {
	Cluster uuid.UUID `json:"cluster"` // UUID of the cluster
	Roots   string    `json:"roots" doc:"certificates of the cluster's authority, as PEM, the newest first"`
	Revoked []Revoked `json:"revoked"` // certificates that members must refuse
}

// Revoked is a certificate that is worth nothing any more.
type Revoked struct {
	Node     uuid.UUID `json:"node,omitzero" doc:"every certificate of this node"`
	Operator string    `json:"operator,omitempty" doc:"every certificate of operators of this name that was made before"`
	At       time.Time `json:"at"` // when the certificate was revoked
}

func (h handlers) members() {
	add(h, post("/v1/tokens", "make-token", "nodes", "Make a join token", "It lets one host join the cluster, once."),
		func(ctx context.Context, in *struct{ Body NewToken }) (*answer[JoinToken], error) {
			changeOf(ctx).Target = dataset.Clip(in.Body.Name)
			token, err := h.Members.MakeToken(ctx, in.Body)
			if token.ID != "" {
				changeOf(ctx).Detail = "token " + token.ID
			}
			return reply(token, err)
		})
	h.join()
	certify := agents("certificate", "certify", "Get another certificate")
	certify.MaxBodyBytes = maxJoin
	add(h, certify, func(ctx context.Context, in *struct {
		NodeParam
		Body Certification
	}) (*answer[pki.Signed], error) {
		return reply(h.Members.Certify(ctx, in.Node, in.Body))
	})
	add(h, get("/v1/trust", "get-trust", "nodes", "Say whose certificates are good"),
		func(ctx context.Context, _ *struct{}) (*answer[Trust], error) {
			return reply(h.Members.Trust(ctx))
		})
	add(h, del("/v1/nodes/{node}", "remove-node", "nodes", "Remove a node",
		"Its certificate is worth nothing from then on. Refused while volumes have their home there, or it "+
			"keeps what nobody else has."),
		func(ctx context.Context, in *struct {
			Node  string `path:"node" doc:"the node: its name, or a unique prefix of its UUID"`
			Force bool   `query:"force" doc:"also while volumes have their home there: it stays on record until they have another; and while it keeps what nobody else has, which is forgotten"`
		}) (*answer[Removed], error) {
			if in.Force {
				changeOf(ctx).Detail = "force"
			}
			return reply(h.Members.RemoveNode(ctx, in.Node, in.Force))
		})
	add(h, del("/v1/operators/{name}", "revoke-operator", "nodes", "Make an operator's certificates worth nothing",
		"Those that were made so far, of all roles."),
		func(ctx context.Context, in *struct {
			Name string `path:"name" doc:"the operator's name"`
		}) (*struct{}, error) {
			changeOf(ctx).Target = dataset.Clip(in.Name)
			return nil, h.Members.RevokeOperator(ctx, in.Name)
		})
}

// join is the one endpoint that needs no certificate: what anybody can make it do is
// bounded.
func (h handlers) join() {
	op := post(joinPath, "join", "agents", "Join the cluster with a token",
		"The one endpoint that needs no certificate.")
	op.MaxBodyBytes, op.BodyReadTimeout = maxJoin, strangerTime
	room := make(chan struct{}, joinsOnce)
	add(h, op, func(ctx context.Context, in *struct{ Body Join }) (*answer[Joined], error) {
		changeOf(ctx).Target = dataset.Clip(in.Body.Name)
		select {
		case room <- struct{}{}:
			defer func() { <-room }()
		default:
			return nil, dataset.Errorf(dataset.ErrUnavailable, "too many hosts join at once (try again in a moment)")
		}
		joined, err := h.Members.Join(ctx, in.Body)
		if err == nil {
			changeOf(ctx).Node = joined.Node.String()
		}
		return reply(joined, err)
	})
}

// MakeToken makes a join token.
func (c *Client) MakeToken(ctx context.Context, t NewToken) (JoinToken, error) {
	return ask[JoinToken](ctx, c, call{method: http.MethodPost, path: "/v1/tokens", body: t})
}

// Join lets this host in.
func (c *Client) Join(ctx context.Context, j Join) (Joined, error) {
	return ask[Joined](ctx, c, call{method: http.MethodPost, path: joinPath, body: j, again: true})
}

// Certify gets another certificate.
func (c *Client) Certify(ctx context.Context, id uuid.UUID, r Certification) (pki.Signed, error) {
	return ask[pki.Signed](ctx, c, node(id, "/certificate", r))
}

// Trust says whose certificates are good.
func (c *Client) Trust(ctx context.Context) (Trust, error) {
	return ask[Trust](ctx, c, call{method: http.MethodGet, path: "/v1/trust"})
}

// RemoveNode lets a node go.
func (c *Client) RemoveNode(ctx context.Context, ref string, force bool) (n Removed, err error) {
	path, err := refs("/v1/nodes/%s", ref)
	if err != nil {
		return n, err
	}
	k := call{method: http.MethodDelete, path: path, again: true}
	if force {
		k.query = query("force", "true")
	}
	return ask[Removed](ctx, c, k)
}

// RevokeOperator makes an operator's certificates worth nothing.
func (c *Client) RevokeOperator(ctx context.Context, name string) error {
	path, err := refs("/v1/operators/%s", name)
	if err != nil {
		return err
	}
	return c.tell(ctx, call{method: http.MethodDelete, path: path, again: true})
}
