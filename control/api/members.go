package api

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/internal/pki"
)

// Members are the requests about the membership of the cluster: joining, certificates and leaving. Control implements
// it, and *client.Client too. All methods are safe for concurrent use.
type Members interface {
	// MakeToken creates a token with which one host can join once. If the token has the name of an existing node,
	// that node can join again and gets a new certificate.
	MakeToken(ctx context.Context, t NewToken) (JoinToken, error)
	// Join makes a host a member. Idempotent: repeated with the same token and request, it returns a certificate for
	// the same node.
	Join(ctx context.Context, j Join) (Joined, error)
	// Certify gives a node a new certificate.
	Certify(ctx context.Context, node uuid.UUID, r Certification) (pki.Signed, error)
	// Trust returns the roots and the revoked certificates at this time.
	Trust(ctx context.Context) (Trust, error)
	// RemoveNode removes a node for good. ref is its name or a prefix of its UUID. It fails with ErrInUse while the
	// node is the home of datasets, or has data that no other node has.
	//
	// With force, the certificate of the node is revoked, and the records of data that no other node has are removed.
	// The record of the node stays until its datasets have another home. If the node may have volumes of other homes
	// mounted, its record also stays until an operator confirms that the node no longer writes.
	//
	// With DryRun, nothing is changed. RemoveNode then returns the result and the error of the real removal.
	RemoveNode(ctx context.Context, ref string, how NodeRemoval) (RemovedNode, error)
	// RevokeOperator revokes every certificate of an operator that was issued until now. It also revokes certificates
	// that are issued in the next ten minutes, because clocks can differ by that much.
	RevokeOperator(ctx context.Context, name string) error
	// Recover returns the differences between a store that was restored from an older backup and the reports of the
	// agents. If r has the digest of these differences, Recover corrects the store. It fails with ErrConflict if the
	// differences have changed since, or if an operator must confirm more. A call that was interrupted can be repeated.
	Recover(ctx context.Context, r Recover) (Recovery, error)
}

// NewToken asks for a join token.
type NewToken struct {
	// The only name that the node can have; with the name of an existing node, that node joins again.
	Name string `json:"name,omitempty"`
	TTL  string `json:"ttl,omitempty" doc:"how long the token can be used; absent: 1h; at most 168h" example:"1h"`
}

// JoinToken lets one host join.
type JoinToken struct {
	Token   string    `json:"token" doc:"the secret token; it cannot be read again"`
	ID      string    `json:"id" doc:"first digits of the hash of the token"`
	Name    string    `json:"name,omitempty"` // name that the joining node must have; empty: any name
	Node    uuid.UUID `json:"node,omitzero" doc:"UUID of the node that joins again with the token"`
	Expires time.Time `json:"expires"` // when the token stops being valid
}

// Join is the request of a host to become a member.
type Join struct {
	Token string    `json:"token" maxLength:"256"` // the join token, as it was printed when it was made
	CSR   string    `json:"csr" maxLength:"16384" doc:"certificate signing request: PKCS #10, as PEM"`
	Name  string    `json:"name" maxLength:"64" doc:"name of the new node"`
	Node  uuid.UUID `json:"node,omitzero" doc:"UUID that the host had as a node before"`
}

// Joined is the answer to Join: the host as a node of the cluster.
type Joined struct {
	Node        uuid.UUID  `json:"node"`        // UUID of the node in the cluster
	Name        string     `json:"name"`        // name of the node in the cluster
	Certificate pki.Signed `json:"certificate"` // the certificate of the node
}

// Certification asks for a certificate.
type Certification struct {
	CSR string `json:"csr" maxLength:"16384" doc:"certificate signing request: PKCS #10, as PEM"`
}

// Trust has the certificates that members accept.
type Trust struct {
	Cluster uuid.UUID `json:"cluster"` // UUID of the cluster
	Roots   string    `json:"roots" doc:"certificates of the cluster's authority, as PEM, the newest first"`
	Revoked []Revoked `json:"revoked"` // certificates that members must refuse
}

// Revoked identifies one or more certificates that are no longer valid.
type Revoked struct {
	Node uuid.UUID `json:"node,omitzero" doc:"every certificate of this node"`
	// Every certificate of operators of this name that was issued up to ten minutes after at, because clocks can differ
	// by that much.
	Operator string    `json:"operator,omitempty"`
	At       time.Time `json:"at"` // when the certificate was revoked
}
