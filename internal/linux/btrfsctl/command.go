package btrfsctl

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"
)

// ErrStream means that a stream is not the stream of a subvolume, or cannot be applied to its target.
var ErrStream = errors.New("the stream is not a difference to the local data")

// ErrBase means that a stream is a difference to a subvolume other than the base. ErrBase wraps ErrStream.
var ErrBase = fmt.Errorf("%w", ErrStream)

const (
	streamMagic   = "btrfs-stream\x00"
	streamVersion = 1
	commandMost   = 1 << 20 // bytes; the kernel's commands are a little longer than 64 KiB at most
)

// The commands of a stream (fs/btrfs/send.h).
const (
	cmdSubvolume   = 1
	cmdSnapshot    = 2
	cmdMkfile      = 3
	cmdMkdir       = 4
	cmdMknod       = 5
	cmdMkfifo      = 6
	cmdMksock      = 7
	cmdSymlink     = 8
	cmdRename      = 9
	cmdLink        = 10
	cmdUnlink      = 11
	cmdRmdir       = 12
	cmdSetXattr    = 13
	cmdRemoveXattr = 14
	cmdWrite       = 15
	cmdClone       = 16
	cmdTruncate    = 17
	cmdChmod       = 18
	cmdChown       = 19
	cmdUtimes      = 20
	cmdEnd         = 21
	cmdExtent      = 22 // replaces cmdWrite in a stream without data
)

// The attributes of commands.
const (
	attrUUID        = 1
	attrSize        = 4
	attrMode        = 5
	attrUID         = 6
	attrGID         = 7
	attrDevice      = 8
	attrMtime       = 10
	attrAtime       = 11
	attrXattrName   = 13
	attrXattrData   = 14
	attrPath        = 15
	attrPathTo      = 16
	attrPathLink    = 17
	attrOffset      = 18
	attrData        = 19
	attrCloneUUID   = 20
	attrClonePath   = 22
	attrCloneOffset = 23
	attrCloneLength = 24
	attrMost        = 25
)

// command is one command of a stream. Its attributes are valid until the next command is read.
type command struct {
	kind uint16
	attr [attrMost][]byte
	err  error // the first error of reading an attribute
}

// commands reads the commands of a stream.
type commands struct {
	r   *bufio.Reader
	buf []byte
}

func newCommands(r io.Reader) (*commands, error) {
	c := &commands{r: bufio.NewReaderSize(r, 256<<10)}
	head := make([]byte, len(streamMagic)+4)
	if _, err := io.ReadFull(c.r, head); err != nil {
		return nil, fmt.Errorf("read the header of a stream: %w", err)
	}
	version := binary.LittleEndian.Uint32(head[len(streamMagic):])
	if string(head[:len(streamMagic)]) != streamMagic || version != streamVersion {
		return nil, fmt.Errorf("%w: it begins with %q", ErrStream, head)
	}
	return c, nil
}

// next reads the next command into cmd. It returns io.EOF if the stream ends without an end command.
func (c *commands) next(cmd *command) error {
	var head [10]byte // struct btrfs_cmd_header: length, kind, checksum
	if _, err := io.ReadFull(c.r, head[:]); err != nil {
		return err
	}
	le := binary.LittleEndian
	length := le.Uint32(head[:])
	if length > commandMost {
		return fmt.Errorf("%w: a command of %d bytes", ErrStream, length)
	}
	if uint32(cap(c.buf)) < length {
		c.buf = make([]byte, length)
	}
	b := c.buf[:length]
	if _, err := io.ReadFull(c.r, b); err != nil {
		return io.ErrUnexpectedEOF
	}
	sum := le.Uint32(head[6:])
	clear(head[6:]) // the checksum was computed with zeros in its place
	if got := checksum(head[:], b); got != sum {
		return fmt.Errorf("%w: a command has checksum %08x, not %08x", ErrStream, got, sum)
	}
	*cmd = command{kind: le.Uint16(head[4:])}
	for len(b) > 0 {
		if len(b) < 4 {
			return fmt.Errorf("%w: an attribute is truncated", ErrStream)
		}
		attribute, size := le.Uint16(b), int(le.Uint16(b[2:]))
		if len(b) < 4+size {
			return fmt.Errorf("%w: attribute %d is truncated", ErrStream, attribute)
		}
		if attribute < attrMost {
			cmd.attr[attribute] = b[4 : 4+size : 4+size]
		}
		b = b[4+size:]
	}
	return nil
}

// checksum computes the kernel's crc32c of parts, which starts at 0 and is not inverted.
func checksum(parts ...[]byte) uint32 {
	sum := ^uint32(0)
	for _, b := range parts {
		sum = crc32.Update(sum, crc32.MakeTable(crc32.Castagnoli), b)
	}
	return ^sum
}

func (c *command) bytes(attribute, size int) []byte {
	b := c.attr[attribute]
	if len(b) != size {
		c.err = fmt.Errorf("%w: command %d has %d bytes in attribute %d, not %d", ErrStream, c.kind, len(b), attribute,
			size)
		return make([]byte, size)
	}
	return b
}

func (c *command) number(attribute int) uint64 {
	return binary.LittleEndian.Uint64(c.bytes(attribute, 8))
}

func (c *command) uuid(attribute int) uuid.UUID { return uuid.UUID(c.bytes(attribute, 16)) }

func (c *command) time(attribute int) unix.Timespec {
	b := c.bytes(attribute, 12)
	return unix.Timespec{Sec: int64(binary.LittleEndian.Uint64(b)), Nsec: int64(binary.LittleEndian.Uint32(b[8:]))}
}

func (c *command) text(attribute int) string { return string(c.attr[attribute]) }

// Change is the size of the difference between two subvolumes.
type Change struct {
	Bytes    int64 // bytes of files that were written or became holes
	Ranges   int
	Commands int // the number of commands that turn one subvolume into the other
}

// ErrDiffers is returned by Compare if first is set and the subvolumes differ.
var ErrDiffers = errors.New("they differ")

// Compare reads a stream without data, and returns the size of the changes. If first is set, it fails with ErrDiffers
// at the first change.
func Compare(r io.Reader, first bool) (c Change, err error) {
	in, err := newCommands(r)
	if err != nil {
		return c, err
	}
	for {
		var cmd command
		if err := in.next(&cmd); err != nil {
			return c, err
		}
		switch cmd.kind {
		case cmdEnd:
			return c, nil
		case cmdSubvolume, cmdSnapshot:
			continue
		case cmdExtent:
			c.Bytes += int64(cmd.number(attrSize))
			c.Ranges++
		}
		if c.Commands++; first {
			return c, ErrDiffers
		}
		if cmd.err != nil {
			return c, cmd.err
		}
	}
}
