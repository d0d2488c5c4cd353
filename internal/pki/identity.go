// Package pki identifies the members of a cluster. It has the certificate authority of the cluster, the certificates of
// control replicas, nodes and operators, and the verification of a peer's certificate. It knows files and TLS, but not
// HTTP. The command drover ca (cmd/drover/internal/nodes) creates and rotates an [Authority], and issues
// certificates of operators with it. A control replica (control/membership, cmd/drover/internal/daemon) signs its own
// certificate and those of nodes. Agents (agent/controlsync) and clients (cmd/drover/internal/cli) keep a [Pair] in
// files. All members verify peers with [Credentials]. A lock file protects the folder of an authority from concurrent
// changes. The caller protects the files of a pair. In memory, Credentials have the present pair, in an atomic pointer,
// and a cache of verified signatures, which a mutex protects.
//
// Where to change what: what a certificate contains is in authority.go and identity.go, when a peer is accepted in
// tls.go and signaturecache.go, the list of operators in operators.go, how an authority gets a new key in rotate.go,
// the files of a pair in files.go, requests of certificates in request.go, and the form of tokens in token.go.
//
// A certificate names its holder with one URI and nothing else:
//
//	drover://<cluster>/control/<name>
//	drover://<cluster>/node/<uuid>
//	drover://<cluster>/operator/<role>/<name>
//
// The certificate of the authority permits only URIs of its cluster, and neither host names nor addresses. So a
// certificate that the authority signs is useless in other clusters (RFC 5280, section 4.2.1.10). Peers are not
// verified by host name, because certificates contain none. A peer with a certificate of kind control is a control
// replica, wherever it runs.
package pki

import (
	"crypto/x509"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// Kind is the kind of a member of a cluster.
type Kind string

// The kinds of members.
const (
	Control  Kind = "control"
	Node     Kind = "node"
	Operator Kind = "operator"
)

// Role is the set of rights of an operator; in the order of Roles, each role includes the rights of the following
// roles.
type Role string

// The roles of operators.
const (
	Admin  Role = "admin"    // also manages nodes, certificates and the store
	Worker Role = "operator" // volumes, snapshots, operations
	Viewer Role = "viewer"   // only read
)

// Roles returns the roles, the most powerful first.
func Roles() []Role { return []Role{Admin, Worker, Viewer} }

// Covers reports whether a role has all rights of another one.
func (r Role) Covers(other Role) bool {
	rank, otherRank := slices.Index(Roles(), r), slices.Index(Roles(), other)
	return rank >= 0 && otherRank >= rank
}

// Identity is the holder of a certificate.
type Identity struct {
	Cluster uuid.UUID
	Kind    Kind
	Node    uuid.UUID // of a node
	Role    Role      // of an operator
	// Name is the name of the holder. The name of a node is the name that it had when it joined. It is only for people
	// to read: a node is identified by its UUID.
	Name string
}

const scheme = "drover"

// maxName is the maximum length of a common name (RFC 5280, ub-common-name) and of a host name on Linux
// (sethostname(2)).
const maxName = 64

var nameForm = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`)

// CheckName fails with ErrInvalid for an invalid name of a control replica, a node or an operator.
func CheckName(name string) error {
	if len(name) > maxName || !nameForm.MatchString(name) {
		return dataset.Errorf(dataset.ErrInvalid,
			"bad name %q: expected 1 to %d letters, digits, '_', '.' or '-', with a letter or digit first",
			dataset.Clip(name), maxName)
	}
	return nil
}

// ParseRole parses a role. It fails with ErrInvalid, and lists the roles.
func ParseRole(s string) (Role, error) {
	for _, r := range Roles() {
		if s == string(r) {
			return r, nil
		}
	}
	have := []string{string(Admin), string(Worker), string(Viewer)}
	hint := dataset.Suggestion(s, have)
	if s == string(Node) || s == "agent" {
		hint = "; a node gets its certificate when it joins: drover node token --name NAME"
	}
	return "", dataset.Errorf(dataset.ErrInvalid, "unknown role %q (available: %s)%s", dataset.Clip(s),
		dataset.FormatChoices(have), hint)
}

// Check fails with ErrInvalid for an identity that no certificate can contain.
func (i Identity) Check() error {
	if i.Cluster == uuid.Nil {
		return dataset.Errorf(dataset.ErrInvalid, "identity without a cluster")
	}
	switch i.Kind {
	case Control:
		return CheckName(i.Name)
	case Node:
		if i.Node == uuid.Nil {
			return dataset.Errorf(dataset.ErrInvalid, "identity of a node without its UUID")
		}
		return CheckName(i.Name)
	case Operator:
		if _, err := ParseRole(string(i.Role)); err != nil {
			return err
		}
		return CheckName(i.Name)
	}
	return dataset.Errorf(dataset.ErrInvalid, "identity of unknown kind %q", dataset.Clip(string(i.Kind)))
}

// String describes the holder: "node a (3f2a…)", "operator alice (viewer)", "control c1".
func (i Identity) String() string {
	switch i.Kind {
	case Node:
		return fmt.Sprintf("node %s (%s)", i.Name, i.Node)
	case Operator:
		return fmt.Sprintf("operator %s (%s)", i.Name, i.Role)
	}
	return string(i.Kind) + " " + i.Name
}

// URI returns the identity as a certificate contains it.
func (i Identity) URI() *url.URL {
	path := i.Name
	switch i.Kind {
	case Node:
		path = i.Node.String()
	case Operator:
		path = string(i.Role) + "/" + i.Name
	}
	return &url.URL{Scheme: scheme, Host: i.Cluster.String(), Path: "/" + string(i.Kind) + "/" + path}
}

// parseURI parses a URI that Identity.URI returned. It rejects equivalent URIs in another spelling. It leaves the name
// of a node empty.
func parseURI(u *url.URL) (Identity, error) {
	bad := fmt.Errorf("%q is not an identity of drover", dataset.Clip(u.String()))
	words := strings.Split(u.Path, "/")
	if len(words) < 3 || words[0] != "" {
		return Identity{}, bad
	}
	id := Identity{Kind: Kind(words[1]), Name: words[len(words)-1]}
	var err error
	if id.Cluster, err = uuid.Parse(u.Host); err != nil {
		return Identity{}, bad
	}
	switch {
	case id.Kind == Node:
		if id.Node, err = uuid.Parse(id.Name); err != nil {
			return Identity{}, bad
		}
	case id.Kind == Operator && len(words) == 4:
		id.Role = Role(words[2])
	}
	if err := id.Check(); err != nil || id.URI().String() != u.String() {
		return Identity{}, bad
	}
	return id, nil
}

// IdentityOf returns the identity that a certificate claims. It does not verify the certificate.
func IdentityOf(c *x509.Certificate) (Identity, error) {
	if len(c.URIs) != 1 || len(c.DNSNames)+len(c.IPAddresses)+len(c.EmailAddresses) != 0 {
		return Identity{}, fmt.Errorf("the certificate of %q is not of drover: expected one that names its "+
			"holder by one URI, %s://…", dataset.Clip(c.Subject.CommonName), scheme)
	}
	id, err := parseURI(c.URIs[0])
	if err != nil {
		return Identity{}, fmt.Errorf("the certificate of %q is not of drover: %w",
			dataset.Clip(c.Subject.CommonName), err)
	}
	if id.Kind == Node {
		id.Name = c.Subject.CommonName
		if err := CheckName(id.Name); err != nil {
			return Identity{}, fmt.Errorf("the certificate of node %s: %w", id.Node, err)
		}
	}
	return id, nil
}
