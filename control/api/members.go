package api

import (
	"context"
	"time"

	"github.com/google/uuid"

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

// JoinPath is the path of the endpoint at which a host joins. It is the only one that needs no certificate.
const JoinPath = "/v1/join"

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
