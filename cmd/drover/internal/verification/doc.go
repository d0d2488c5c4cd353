// Package verification has the commands of drover backend, which test a backend on a pool of this host.
package verification
