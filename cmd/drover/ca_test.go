package main

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/droverhq/drover/cmd/drover/internal/daemon"
	"github.com/droverhq/drover/cmd/drover/internal/nodes"
	"github.com/droverhq/drover/control/api/server"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/pki"
	"github.com/droverhq/drover/test/require"
)

// The test starts without an authority. An operator gets a certificate, sends requests to control over the network, and
// is revoked.
func TestCertificateAuthority(t *testing.T) {
	f := theWorld()
	c := newConsole(f)
	c.Now = time.Now
	c.Dial = c.OpenClient
	dir, out := filepath.Join(t.TempDir(), "ca"), t.TempDir()
	must := func(args ...string) string {
		t.Helper()
		c.out.Reset()
		c.err.Reset()
		if code := c.run(t, args...); code != 0 {
			t.Fatalf("%v: %d %s", args, code, c.err.String())
		}
		return c.out.String()
	}
	refused := func(want string, args ...string) {
		t.Helper()
		c.err.Reset()
		if code := c.run(t, args...); code == 0 || !strings.Contains(c.err.String(), want) || strings.Count(c.err.String(), "\n") != 1 {
			t.Errorf("%v: %d %s", args, code, c.err.String())
		}
	}
	refused("no certificate authority in "+dir, "ca", "issue", "bob", "--role", "viewer", "--dir", dir)
	refused("no such folder", "ca", "rotate", "--dir", dir)
	refused("--dir is empty: name the folder to create, or omit --dir to use /etc/drover/ca", "ca", "init", "--dir", "")
	refused("contains other files (bob.pem)", "ca", "init", "--dir", occupied(t))
	var made nodes.Authority
	if err := json.Unmarshal([]byte(must("ca", "init", "--dir", dir, "-o", "json")), &made); err != nil || len(made.Cluster) != 36 || len(made.Fingerprint) != 64 || made.Roots != 1 {
		t.Errorf("%+v, %v", made, err)
	}
	refused("contains a certificate authority", "ca", "init", "--dir", dir)
	if said := must("ca", "init", "--keep", "--dir", dir); said != "kept the certificate authority of cluster "+made.Cluster+" in "+dir+"\n" {
		t.Error(said)
	}
	half := filepath.Join(t.TempDir(), "half")
	must("ca", "init", "--keep", "--dir", half)
	require.NoError(t, os.Remove(filepath.Join(half, "ca-key.pem")))
	refused("no certificate authority in "+half, "ca", "init", "--keep", "--dir", half)
	said := must("ca", "issue", "bob", "--role", "viewer", "--dir", dir, "--out", out)
	if !strings.Contains(said, "export DROVER_CERT="+out+"/bob.pem DROVER_KEY="+out+"/bob-key.pem DROVER_CA="+out+"/bob-ca.pem") {
		t.Error(said)
	}
	refused("exists: choose another --out", "ca", "issue", "bob", "--role", "admin", "--dir", dir, "--out", out)
	elsewhere := filepath.Join(t.TempDir(), "to", "alice")
	must("ca", "issue", "alice", "--role", "viewer", "--dir", dir, "--out", elsewhere)
	if info, err := os.Stat(elsewhere); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("--out of a missing folder: %v, %v", info, err)
	}
	refused("no certificate was issued to that name from "+dir+" (issued to: alice, bob); did you mean bob?; --force revokes",
		"ca", "revoke", "bbo", "--dir", dir)
	refused("drover node token --name NAME", "ca", "issue", "host-a", "--role", "node", "--dir", dir, "--out", out)
	refused("bad name", "ca", "issue", "../bob", "--role", "admin", "--dir", dir, "--out", out)

	c.env["DROVER_API"] = "unix://" + dir + "/none.sock" // control is unreachable
	if said := must("ca", "ls", "--dir", dir); !regexp.MustCompile(`alice +operator +yes +in .* unknown\n`).MatchString(said) {
		t.Errorf("without control: %s", said)
	}
	refused("cannot reach drover", "ca", "ls", "--dir", filepath.Join(dir, "none"))

	address := answering(t, f, dir)
	c.env["DROVER_API"] = "https://" + address
	refused("set --cert or DROVER_CERT, --key or DROVER_KEY, --ca or DROVER_CA", "node", "ls")
	c.env["DROVER_CERT"], c.env["DROVER_KEY"] = out+"/bob.pem", out+"/bob-key.pem"
	refused("set --ca or DROVER_CA (", "node", "ls")
	with := []string{"--ca", out + "/bob-ca.pem"}
	must(append(with, "node", "ls")...)
	refused("operator bob (viewer) may not remove a node: this requires the role admin", append(with, "node", "rm", "alpha", "--yes")...)
	require.NoError(t, os.Chmod(out+"/bob-key.pem", 0o644))
	refused("others can use this key", append(with, "node", "ls")...)
	require.NoError(t, os.Chmod(out+"/bob-key.pem", 0o600))

	must("ca", "rotate", "--dir", dir)
	refused("end that first", "ca", "rotate", "--dir", dir)
	address = answering(t, f, dir)
	c.env["DROVER_API"] = "https://" + address
	must(append(with, "node", "ls")...)
	refused("the old root is trusted until", "ca", "rotate", "--finish", "--dir", dir)
	must("ca", "rotate", "--finish", "--force", "--dir", dir)
	c.env["DROVER_API"] = "https://" + answering(t, f, dir)
	refused("is not signed by this cluster's certificate authority", append(with, "node", "ls")...)
}

// The certificate of the operator who runs the command expires soon, and then has expired. Status and doctor name it, and
// the command that issues another one. The error of any other command names that command too.
func TestOwnCertificateExpires(t *testing.T) {
	f := theWorld()
	c := newConsole(f)
	now := time.Now()
	c.Dial = c.OpenClient
	dir := filepath.Join(t.TempDir(), "ca")
	c.Now = func() time.Time { return now.Add(-500 * 24 * time.Hour) }
	if code := c.run(t, "ca", "init", "--dir", dir); code != 0 {
		t.Fatal(c.err.String())
	}
	c.env["DROVER_API"] = "https://" + answering(t, f, dir)
	const fix = "to do: drover ca issue bob --role admin --out DIR on a control host"
	for name, is := range map[string]struct {
		left    time.Duration // of the certificate
		text    string        // of the finding; "" without one
		refused bool
	}{
		"fresh":    {300 * 24 * time.Hour, "", false},
		"not soon": {31 * 24 * time.Hour, "", false},
		"soon":     {29 * 24 * time.Hour, "your certificate, of operator bob (admin), expires 20", false},
		"expired":  {-time.Hour, "your certificate, of operator bob (admin), expired 20", true},
	} {
		out := t.TempDir()
		c.Now = func() time.Time { return now.Add(is.left - pki.OperatorLife) }
		if code := c.run(t, "ca", "issue", "bob", "--role", "admin", "--dir", dir, "--out", out); code != 0 {
			t.Fatal(c.err.String())
		}
		c.Now = time.Now
		c.env["DROVER_CERT"], c.env["DROVER_KEY"], c.env["DROVER_CA"] = out+"/bob.pem", out+"/bob-key.pem", out+"/bob-ca.pem"
		c.out.Reset()
		c.err.Reset()
		code := c.run(t, "status")
		got := c.out.String()
		if (is.text != "") != strings.Contains(got, "your certificate") || !strings.Contains(got, is.text) ||
			is.text != "" && (code != 1 || !strings.Contains(got, fix)) || strings.Contains(got, "cannot read the state") {
			t.Errorf("%s: %d\n%s%s", name, code, got, c.err.String())
		}
		c.err.Reset()
		code = c.run(t, "node", "ls")
		want := "get a new certificate (drover ca issue bob --role admin, on a control host)"
		if (code != 0) != is.refused || is.refused != strings.Contains(c.err.String(), want) {
			t.Errorf("%s: node ls: %d %s", name, code, c.err.String())
		}
		c.out.Reset()
		if code := c.run(t, "ca", "ls", "--dir", dir); code == 0 && !strings.Contains(c.out.String(), "EXPIRES") {
			t.Errorf("%s: ca ls:\n%s", name, c.out.String())
		}
	}
}

// All commands of drover ca use the same folder if --dir is not given.
func TestDefaultAuthority(t *testing.T) {
	c := newConsole(theWorld())
	if c.Authority != "/etc/drover/ca" {
		t.Errorf("docs/cluster.md says /etc/drover/ca, not %s", c.Authority)
	}
	c.Authority, c.Now = filepath.Join(t.TempDir(), "etc/drover/ca"), time.Now
	for _, args := range [][]string{
		{"ca", "init"},
		{"ca", "init", "--keep"},
		{"ca", "issue", "bob", "--role", "viewer", "--out", t.TempDir()},
		{"ca", "rotate"},
	} {
		if code := c.run(t, args...); code != 0 {
			t.Fatalf("%v: %d %s", args, code, c.err.String())
		}
	}
	if _, err := pki.Load(c.Authority); err != nil {
		t.Error(err)
	}
}

// occupied returns a folder that is not empty.
func occupied(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "bob.pem"), nil, 0o600))
	return dir
}

// answering starts control on loopback, with a certificate of the authority in a folder.
func answering(t *testing.T, f *fake, dir string) (address string) {
	t.Helper()
	ca, err := pki.Load(dir)
	require.NoError(t, err)
	pair, err := ca.Issue(pki.Identity{Kind: pki.Control, Name: "c1"}, time.Now())
	require.NoError(t, err)
	own := pki.NewCredentials(pair, clock.System{}, nil)
	s := server.New(server.Handler(server.Deps{Service: service{fake: f}, Members: f, Peer: own.VerifyPeer}))
	s.ErrorLog = log.New(io.Discard, "", 0)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var serving sync.WaitGroup
	serving.Go(func() { _ = s.Serve(tls.NewListener(l, own.UnverifiedServer())) }) // always returns an error
	t.Cleanup(func() { s.Close(); serving.Wait() })
	return l.Addr().String()
}

// A token for a program is written to a file that only its owner can read, and is not printed.
func TestTokenInFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	for _, more := range [][]string{nil, {"-o", "json"}} {
		c := newConsole(theWorld())
		if code := c.run(t, append([]string{"node", "token", "--out", file}, more...)...); code != 0 {
			t.Fatal(code, c.err.String())
		}
		if said := c.out.String() + c.err.String(); strings.Contains(said, "sesame") || !strings.Contains(said, "0123abcd") {
			t.Error(said)
		}
		st, err := os.Stat(file)
		if err != nil || st.Mode() != 0o600 {
			t.Fatal(st, err)
		}
		if got, err := daemon.ReadToken(c.App, "@"+file); err != nil || got != "drover-join-sesame" {
			t.Errorf("%q, %v", got, err)
		}
		require.NoError(t, os.WriteFile(file, []byte("used"), 0o600))
	}
}

// In a folder where other users can create files, a command writes a token only to a new file of its own.
func TestTokenInSharedFolder(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	theirs, err := os.Create(file + ".tmp")
	require.NoError(t, err)
	defer theirs.Close()
	c := newConsole(theWorld())
	if code := c.run(t, "node", "token", "--out", file); code != 0 {
		t.Fatal(code, c.err.String())
	}
	if st, err := theirs.Stat(); err != nil || st.Size() != 0 {
		t.Error("the token is in the file of another user")
	}
	if st, err := os.Stat(file); err != nil || st.Mode() != 0o600 || st.Size() == 0 {
		t.Errorf("%v, %v", st, err)
	}
	if all, err := os.ReadDir(filepath.Dir(file)); err != nil || len(all) != 2 {
		t.Errorf("a temporary file is left: %v, %v", all, err)
	}
}

func TestI12ReadToken(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(file, []byte(" sesame\n"), 0o600))
	for said, want := range map[string]string{"": "", "@" + file: "sesame", "-": "from standard input"} {
		c := newConsole(theWorld())
		c.In = strings.NewReader("from standard input\n")
		if got, err := daemon.ReadToken(c.App, said); err != nil || got != want {
			t.Errorf("%q: %q, %v", said, got, err)
		}
	}
	_, err := daemon.ReadToken(newConsole(theWorld()).App, "drover-join-sesame")
	if !errors.Is(err, dataset.ErrInvalid) || strings.Contains(err.Error(), "sesame") || !strings.Contains(err.Error(), "--join @FILE") {
		t.Errorf("I12: a token on the command line: %v", err)
	}
	if _, err := daemon.ReadToken(newConsole(theWorld()).App, "@"+file+"x"); !errors.Is(err, os.ErrNotExist) || dataset.KindOf(err) == nil {
		t.Error(err)
	}
}
