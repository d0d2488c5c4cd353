package backupserver

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/droverhq/drover/test/require"
)

// sftpServer is the program of OpenSSH that serves files to a client.
const sftpServer = "/usr/lib/openssh/sftp-server"

// SFTP starts an SSH server that runs OpenSSH's sftp-server for each client with the right key. It is no sshd(8),
// because Debian's package would open port 22 of the machine. Env makes ssh(1) use the key, and trust the server.
func SFTP(t testing.TB) *Server {
	t.Helper()
	s := &Server{dir: t.TempDir()}
	s.Data = filepath.Join(s.dir, "data")
	require.NoError(t, os.Mkdir(s.Data, 0o700))
	host, user := s.key(t, "host"), s.key(t, "user")
	check := func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		if string(key.Marshal()) != string(user.PublicKey().Marshal()) {
			return nil, errors.New("unknown key")
		}
		return &ssh.Permissions{}, nil
	}
	config := &ssh.ServerConfig{PublicKeyCallback: check}
	config.AddHostKey(host)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var running sync.WaitGroup
	t.Cleanup(running.Wait)
	t.Cleanup(func() { _ = listener.Close() })
	running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return // the test has ended
			}
			running.Go(func() { serveSFTP(t, conn, config) })
		}
	})
	s.addr = listener.Addr().String()
	_, port, err := net.SplitHostPort(s.addr)
	require.NoError(t, err)
	s.write(t, "known_hosts", fmt.Sprintf("[127.0.0.1]:%s %s", port, ssh.MarshalAuthorizedKey(host.PublicKey())))
	client := s.write(t, "ssh_config", fmt.Sprintf("IdentityFile %s/user\nUserKnownHostsFile %[1]s/known_hosts\n"+
		"GlobalKnownHostsFile none\nIdentitiesOnly yes\n", s.dir))
	// restic starts the program ssh, which reads the files of root's home. The test must not change those.
	s.write(t, "bin/ssh", fmt.Sprintf("#!/bin/sh\nPATH=%s exec ssh -F %s \"$@\"\n", os.Getenv("PATH"), client))
	bin := filepath.Join(s.dir, "bin")
	require.NoError(t, os.Chmod(filepath.Join(bin, "ssh"), 0o700))
	s.Env = []string{"PATH=" + bin + ":" + os.Getenv("PATH")}
	s.URL = fmt.Sprintf("sftp://root@%s/%s/drover", s.addr, s.Data)
	return s
}

// key makes a key, and writes it to a file.
func (s *Server) key(t testing.TB, name string) ssh.Signer {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	block, err := ssh.MarshalPrivateKey(private, "")
	require.NoError(t, err)
	s.write(t, name, string(pem.EncodeToMemory(block)))
	signer, err := ssh.NewSignerFromKey(private)
	require.NoError(t, err)
	return signer
}

// serveSFTP serves one connection until the client closes it.
func serveSFTP(t testing.TB, conn net.Conn, config *ssh.ServerConfig) {
	defer conn.Close()
	_, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		t.Logf("ssh: %v", err)
		return
	}
	go ssh.DiscardRequests(requests)
	var sessions sync.WaitGroup
	defer sessions.Wait()
	for c := range channels {
		if c.ChannelType() != "session" {
			_ = c.Reject(ssh.UnknownChannelType, "only sessions are served")
			continue
		}
		channel, asked, err := c.Accept()
		if err != nil {
			t.Logf("ssh: %v", err)
			return
		}
		sessions.Go(func() { serveSession(t, channel, asked) })
	}
}

// serveSession answers the requests of a session. It starts sftp-server for the subsystem sftp, and refuses the rest.
func serveSession(t testing.TB, channel ssh.Channel, requests <-chan *ssh.Request) {
	var program sync.WaitGroup
	defer program.Wait()
	for r := range requests {
		ok := r.Type == "subsystem" && strings.HasSuffix(string(r.Payload), "sftp") // RFC 4254, 6.5
		_ = r.Reply(ok, nil)
		if !ok {
			continue
		}
		program.Go(func() {
			defer channel.Close()
			cmd := exec.Command(sftpServer)
			cmd.Stdout, cmd.Stderr = channel, channel.Stderr()
			in, err := cmd.StdinPipe()
			if err == nil {
				err = cmd.Start()
			}
			if err != nil {
				t.Errorf("%s: %v", sftpServer, err)
				return
			}
			_, _ = io.Copy(in, channel)
			_ = in.Close()
			_ = cmd.Wait()
			_, _ = channel.SendRequest("exit-status", false, make([]byte, 4)) // 0: RFC 4254, 6.10
		})
	}
}
