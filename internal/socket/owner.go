package socket

import (
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// Constants of linux/unix_diag.h that x/sys does not have; see sock_diag(7).
const (
	unixDiagReqLen = 24
	unixDiagMsgLen = 16
	showName       = 0x01
	showUID        = 0x40 // Linux 5.3
	attrName       = 0
	attrUID        = 7
	stateClose     = 7 // bound, and does not listen
	stateListen    = 10
	diagTime       = 5 // seconds for an answer
)

// owner returns the user who made the stream socket that an abstract name is bound to in
// this network namespace, whether it listens or not.
func owner(name string) (uint32, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return 0, fmt.Errorf("sock_diag: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: diagTime}); err != nil {
		return 0, fmt.Errorf("sock_diag: %w", err)
	}
	if err := unix.Sendto(fd, diagRequest(), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, fmt.Errorf("sock_diag: %w", err)
	}
	buf := make([]byte, 64<<10) // as large as the kernel's largest part of a dump
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("sock_diag: %w", err)
		}
		messages, err := syscall.ParseNetlinkMessage(buf[:n])
		if err != nil {
			return 0, fmt.Errorf("sock_diag: %w", err)
		}
		for _, m := range messages {
			switch m.Header.Type {
			case unix.NLMSG_DONE, unix.NLMSG_ERROR:
				return 0, errors.New("sock_diag: the kernel reports no owner")
			}
			if uid, ok := ownerIn(m.Data, name); ok {
				return uid, nil
			}
		}
	}
}

// diagRequest asks for all unix sockets that are bound and not connected.
func diagRequest() []byte {
	b := make([]byte, unix.SizeofNlMsghdr+unixDiagReqLen)
	binary.NativeEndian.PutUint32(b[0:], uint32(len(b)))
	binary.NativeEndian.PutUint16(b[4:], unix.SOCK_DIAG_BY_FAMILY)
	binary.NativeEndian.PutUint16(b[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	req := b[unix.SizeofNlMsghdr:]
	req[0] = unix.AF_UNIX
	binary.NativeEndian.PutUint32(req[4:], 1<<stateClose|1<<stateListen)
	binary.NativeEndian.PutUint32(req[12:], showName|showUID)
	return b
}

// ownerIn reads the owner from the description of a socket, if it is the wanted one.
func ownerIn(msg []byte, name string) (uid uint32, ok bool) {
	if len(msg) < unixDiagMsgLen || msg[1] != unix.SOCK_STREAM {
		return 0, false
	}
	named, hasUID := false, false
	for rest := msg[unixDiagMsgLen:]; len(rest) >= unix.SizeofNlAttr; {
		size := int(binary.NativeEndian.Uint16(rest))
		if size < unix.SizeofNlAttr || size > len(rest) {
			break
		}
		value := rest[unix.SizeofNlAttr:size]
		switch binary.NativeEndian.Uint16(rest[2:]) {
		case attrName:
			named = string(value) == "\x00"+name
		case attrUID:
			if len(value) == 4 {
				uid, hasUID = binary.NativeEndian.Uint32(value), true
			}
		}
		rest = rest[min((size+3)&^3, len(rest)):]
	}
	return uid, named && hasUID
}
