/** Who is logged in in this browser. */
export interface Login {
  readonly user: string;
  readonly userID: string;
}
