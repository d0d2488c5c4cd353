package fault

import "golang.org/x/sys/unix"

// older are calls that only this architecture has beside those of calls.go.
var older = map[int]string{
	unix.SYS_RENAME: "rename", unix.SYS_LINK: "link", unix.SYS_SYMLINK: "symlink", unix.SYS_UNLINK: "unlink",
	unix.SYS_RMDIR: "unlink", unix.SYS_MKDIR: "mkdir", unix.SYS_MKNOD: "mknod", unix.SYS_CHMOD: "chmod",
	unix.SYS_CHOWN: "chown", unix.SYS_LCHOWN: "chown",
}
